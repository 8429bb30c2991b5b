"""One call of a plug-in from environment and stdin to stdout and exit code, in the order of the reference skeleton.

Environment, configuration, names, version; then the verb. What goes wrong is a document on stdout, never a traceback.
"""

from __future__ import annotations

import os
import time

from felix.plugins.cni.call import check_names, parse_call
from felix.plugins.cni.conf import LOG_LEVELS, check_version, find_version, parse_conf, take_number
from felix.plugins.cni.refusal import INCOMPATIBLE_VERSION, INTERNAL, INVALID_NAMESPACE, IO_FAILURE, CniError
from felix.plugins.cni.versions import FIRST_WITH, is_before

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from felix.plugins.cni.call import Call
    from felix.plugins.cni.conf import Conf

    Verb = Callable[[Call, Conf], str]

_INPUT_LIMIT_BYTES = 1 << 20
_OWN_NAMESPACE = "/proc/self/ns/net"
_LOG_LIMIT_MB = 100.0


def run(plugin: str, verbs: Mapping[str, Verb]) -> int:
    """Does what the environment asks for and writes the answer; returns the exit code. verbs: by command."""
    started = time.monotonic()
    raw, call, conf, failure, answer = b"", None, None, None, ""
    try:
        call = parse_call(os.environ)
        raw = _read_stdin()
        conf = parse_conf(raw)
        check_names(call)
        check_version(conf)
        _check_verb(call, conf)
        if call.command in {"ADD", "CHECK"}:
            _check_namespace(call)
        answer = verbs[call.command](call, conf)
        if call.command == "DEL" and _is_own_namespace(call):
            raise _own_namespace()
    except CniError as error:
        failure = error
    except Exception as error:  # the outermost frame of a plug-in: the runtime wants a document
        failure = CniError(INTERNAL, f"{plugin} has a defect: {type(error).__name__}: {error}", _where(error))
    if failure is not None:
        version = conf.version if conf is not None else find_version(raw)
        answer = failure.render(version)
    code = 0 if failure is None else 1
    if not _write(answer):
        code = 1
    if call is not None and conf is not None:
        _log(plugin, call, conf, failure, time.monotonic() - started)
    return code


def _check_verb(call: Call, conf: Conf) -> None:
    first = FIRST_WITH.get(call.command)
    if first is not None and is_before(conf.version, first):
        details = f'config is "{conf.version}", {call.command} came with {first}'
        raise CniError(INCOMPATIBLE_VERSION, f"config version does not allow {call.command}", details)


def _check_namespace(call: Call) -> None:
    """Raises CniError unless the container's namespace is one, and not ours; what we cannot see, the agent will."""
    try:
        found = os.stat(call.netns)
    except OSError as error:
        text = f"network namespace {call.netns!r} cannot be opened: {error.strerror}"
        raise CniError(INVALID_NAMESPACE, text, "CNI_NETNS must be the path of the container's namespace") from None
    try:
        own = os.stat(_OWN_NAMESPACE)
    except OSError:
        return
    if found.st_dev != own.st_dev:
        raise CniError(INVALID_NAMESPACE, f"{call.netns} is no network namespace")
    if found.st_ino == own.st_ino and not call.skips_netns_check:
        raise _own_namespace()


def _is_own_namespace(call: Call) -> bool:
    try:
        return not call.skips_netns_check and os.path.samefile(call.netns, _OWN_NAMESPACE)
    except OSError:
        return False


def _own_namespace() -> CniError:
    return CniError(INVALID_NAMESPACE, "plugin's netns and netns from CNI_NETNS should not be the same")


def _read_stdin() -> bytes:
    pieces: list[bytes] = []
    length = 0
    while True:
        try:
            piece = os.read(0, 65536)
        except OSError as error:
            raise CniError(IO_FAILURE, f"error reading from stdin: {error.strerror}") from None
        if not piece:
            return b"".join(pieces)
        length += len(piece)
        if length > _INPUT_LIMIT_BYTES:
            raise CniError(IO_FAILURE, f"the network configuration on stdin is longer than {_INPUT_LIMIT_BYTES} bytes")
        pieces.append(piece)


def _write(text: str) -> bool:
    left = text.encode("utf-8", "backslashreplace")
    try:
        while left:
            left = left[os.write(1, left) :]
    except OSError:
        return False
    return True


def _where(error: Exception) -> str:
    trace, where = error.__traceback__, ""
    while trace is not None:
        where = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return where


def _log(plugin: str, call: Call, conf: Conf, failure: CniError | None, took_s: float) -> None:
    """A line in the log file that the configuration names. A log that cannot be written is no reason to fail."""
    try:
        path, level = conf.log_file, "info" if failure is None else "error"
        if not path or LOG_LEVELS.index(level) > LOG_LEVELS.index(conf.log_level):
            return
        outcome = "done" if failure is None else f"failed with {failure.code}: {failure} {failure.details}".rstrip()
        who = f"{call.container}/{call.interface}" if call.container else "-"
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{moment} {level.upper()} {plugin} {call.command} {conf.name} {who} {took_s * 1000:.0f} ms {outcome}"
        _append(path, " ".join(line.split()) + "\n", (take_number(conf.fields, "log_file_max_size") or _LOG_LIMIT_MB))
    except (OSError, CniError):
        return


def _append(path: str, line: str, limit_mb: float) -> None:
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
        is_full = os.fstat(file.fileno()).st_size > limit_mb * 1e6
        file.write(line)
    if is_full:
        os.replace(path, f"{path}.1")
