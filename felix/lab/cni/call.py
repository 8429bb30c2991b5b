"""One call of a plug-in: variables, standard input, and what came back. Shell."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from felix.errors import FelixError, shorten
from felix.lab.namespace import call_inside
from felix.lab.store import Json

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Stuck(FelixError):
    """The plug-in did not answer in time, could not be started, or did not do what has to come first."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How a call ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def is_success(self) -> bool:
        """Whether the plug-in says that it did what it was asked for."""
        return self.exit_code == 0

    @property
    def is_silent_success(self) -> bool:
        """Whether it succeeded and printed nothing, as all verbs but ADD and VERSION must."""
        return self.exit_code == 0 and self.stdout.strip() == ""

    @property
    def document(self) -> dict[str, Json] | None:
        """The one JSON object on standard output, None when there is anything else."""
        try:
            value = json.loads(self.stdout)
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    @property
    def code(self) -> int | None:
        """The error's code; None when it is no error, or names none."""
        code = (self.document or {}).get("code")
        return code if self.exit_code != 0 and isinstance(code, int) else None

    def describe(self) -> str:
        """Returns the call's end in one line."""
        if self.exit_code == 0:
            return f"exit 0, {shorten(self.stdout.strip(), 300) or 'nothing'} on stdout"
        document = self.document
        if document is None:
            said = shorten(self.stdout.strip() or "nothing", 200)
            return f"exit {self.exit_code}, no error document but {said!r} on stdout, {self.stderr.strip()[-300:]!r}"
        details = f" ({document['details']})" if document.get("details") else ""
        return f"exit {self.exit_code}, code {document.get('code')}: {document.get('msg')}{details}"


@dataclass(frozen=True, slots=True)
class Plugin:
    """An executable, the network namespace in which a runtime would call it, and the seconds that it may take."""

    executable: Path
    namespace: str
    timeout_s: float = 30.0

    def call(self, variables: Mapping[str, str], stdin: str = "") -> Answer:
        """Returns how the call ended. The plug-in gets exactly these variables and PATH; raises Stuck."""

        def run() -> subprocess.CompletedProcess[bytes]:
            return subprocess.run(
                [str(self.executable)],
                env={"PATH": _PATH, **variables},
                input=stdin.encode(),
                capture_output=True,
                timeout=self.timeout_s,
                check=False,
                cwd="/",
            )

        what = variables.get("CNI_COMMAND", "no command")
        try:
            done = call_inside(self.namespace, run)
        except subprocess.TimeoutExpired as late:
            raise Stuck(f"{self.executable} ({what}) has not answered in {self.timeout_s:g} s") from late
        except OSError as failure:
            raise Stuck(f"cannot start {self.executable}: {os.strerror(failure.errno or 0)}") from failure
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
