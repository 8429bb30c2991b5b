"""The exit codes of every Felix command, one table, so that scripts and supervisors can tell what to do."""

from __future__ import annotations

import enum

from felix.errors import Blame, FelixError


class ExitCode(enum.IntEnum):
    """How a command ended. Values above 63 are those of sysexits.h."""

    OK = 0
    FAILED = 1
    USAGE = 2
    CONFLICT = 3
    BAD_DATA = 65
    UNAVAILABLE = 69
    BUG = 70
    PEER_AWAY = 75
    BAD_SETTING = 78
    INTERRUPTED = 130


MEANING_BY_CODE: dict[ExitCode, str] = {
    ExitCode.OK: "Done. For `felix run`: stopped by SIGTERM or SIGINT; what it programmed stays in force.",
    ExitCode.FAILED: "The answer is no: something was not found, not as expected, not ready, or refused.",
    ExitCode.USAGE: "The command line cannot be understood.",
    ExitCode.CONFLICT: "Somebody else changed the resource meanwhile; its document was not written. Read it again.",
    ExitCode.BAD_DATA: "A file, a manifest or an argument cannot be used; nothing was changed.",
    ExitCode.UNAVAILABLE: "This host lacks a program, a kernel feature or a permission that the command needs.",
    ExitCode.BUG: "Felix itself is wrong; please report the traceback.",
    ExitCode.PEER_AWAY: "etcd, BIRD or another peer is away or failed; the same command may succeed later.",
    ExitCode.BAD_SETTING: "A setting of the environment or the file cannot be used; it is named. A restart is no use.",
    ExitCode.INTERRUPTED: "Somebody pressed Ctrl-C; what was under way may be half done.",
}

_CODE_BY_BLAME = {
    Blame.DATA: ExitCode.BAD_DATA,
    Blame.ENVIRONMENT: ExitCode.UNAVAILABLE,
    Blame.PEER: ExitCode.PEER_AWAY,
    Blame.BUG: ExitCode.BUG,
}


def exit_code(error: FelixError) -> ExitCode:
    """Returns how a command ends that `error` ends."""
    return _CODE_BY_BLAME[error.blame]
