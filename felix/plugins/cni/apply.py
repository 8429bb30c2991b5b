"""Delegating to the IPAM plug-in that a configuration names: found in CNI_PATH, same environment, same stdin."""

from __future__ import annotations

import json
import os

from felix.plugins.cni.refusal import (
    BAD_ENVIRONMENT,
    DECODING_FAILURE,
    INTERNAL,
    INVALID_CONFIG,
    TRY_AGAIN_LATER,
    CniError,
)
from felix.plugins.cni.versions import NEWEST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from felix.plugins.cni.call import Call
    from felix.plugins.cni.conf import Conf


def delegate(call: Call, conf: Conf, command: str, timeout_s: float) -> object:
    """Returns the document that the IPAM plug-in answers to `command`, None if it says nothing.

    Raises CniError with the plug-in's own code and its name in the text, or with ours when it cannot be run.
    """
    name = conf.ipam_type
    code, output, errors = _run(_find(name, call.path), command, conf.raw, timeout_s)
    try:
        document = json.loads(output) if output.strip() else None
    except (ValueError, RecursionError):
        document = {}
        if code == 0:
            raise CniError(
                DECODING_FAILURE, f"ipam {name}: its answer to {command} is no JSON: {output[:80]!r}"
            ) from None
    if code != 0:
        fields = document if isinstance(document, dict) else {}
        number, text = fields.get("code"), fields.get("msg")
        said = str(text or errors.decode("utf-8", "replace").strip() or f"exit code {code} and no message")
        raise CniError(
            number if isinstance(number, int) and number > 0 else INTERNAL,
            f"ipam {name} {command}: {said[:2000]}",
            str(fields.get("details") or ""),
        )
    return document


def delegate_speaks_newest(call: Call, conf: Conf, timeout_s: float) -> bool:
    """Whether the IPAM plug-in knows the version that brought GC and STATUS."""
    path = _find(conf.ipam_type, call.path)
    code, output, _ = _run(path, "VERSION", json.dumps({"cniVersion": NEWEST}).encode(), timeout_s)
    try:
        versions = json.loads(output)["supportedVersions"]
    except (ValueError, KeyError, TypeError):
        return False
    return code == 0 and isinstance(versions, list) and NEWEST in versions


def _find(name: str, folders: tuple[str, ...]) -> str:
    if "/" in name:
        raise CniError(INVALID_CONFIG, f'"ipam.type" must be the name of a plug-in, not a path: {name!r}')
    for folder in folders:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    raise CniError(BAD_ENVIRONMENT, f'failed to find plugin "{name}" in path {list(folders)}', "install it there")


def _run(path: str, command: str, stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
    import subprocess  # needs some milliseconds, and only foreign IPAM needs it

    environment = {**os.environ, "CNI_COMMAND": command}
    try:
        done = subprocess.run(
            [path], input=stdin, env=environment, capture_output=True, check=False, timeout=max(0.1, timeout_s)
        )
    except subprocess.TimeoutExpired:
        name = os.path.basename(path)
        raise CniError(TRY_AGAIN_LATER, f"ipam {name} {command}: no answer within {timeout_s:.0f} s") from None
    except OSError as error:
        raise CniError(INTERNAL, f"{path} cannot be run: {error.strerror}") from None
    return done.returncode, done.stdout, done.stderr
