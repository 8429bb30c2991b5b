"""The errors of Felix, and the value that stands for bad data.

    FelixError                      somebody's fault, and what happens next
    ├── DataError                   a person's input that cannot be used (manifest, setting, argument)
    ├── EnvironmentFault            this host lacks something: a program, a kernel feature, a permission
    ├── PeerError                   the other side (etcd, BIRD, an orchestrator) failed or is away
    │   └── ResyncRequired          what was known of the other side is no longer true: read it again
    └── KernelRefused               the kernel did not take a change

Bad *stored* data is never an exception: it is a `Problem`, a value that travels beside the good data.
"""

from __future__ import annotations

import enum

import msgspec


class Blame(enum.Enum):
    """Whose fault an error is; the first thing its reader wants to know."""

    DATA = "data"
    ENVIRONMENT = "environment"
    PEER = "peer"
    BUG = "bug"


class Remedy(enum.Enum):
    """What happens next without anybody doing anything."""

    IGNORE = "ignore"
    RETRY = "retry"
    BACK_OFF = "back-off"
    RESYNC = "resync"
    DEGRADE = "degrade"
    EXIT = "exit"


class FelixError(Exception):
    """Something failed; `blame` says whose fault it is and `remedy` what happens next."""

    blame: Blame = Blame.BUG
    remedy: Remedy = Remedy.EXIT


class DataError(FelixError):
    """A person's input cannot be used; nothing was changed. The text names object, value and remedy."""

    blame = Blame.DATA
    remedy = Remedy.IGNORE


class EnvironmentFault(FelixError):
    """This host lacks a program, a kernel feature or a permission that the act needs."""

    blame = Blame.ENVIRONMENT
    remedy = Remedy.DEGRADE


class PeerError(FelixError):
    """The other side of a connection failed or is away; the act may be tried again."""

    blame = Blame.PEER
    remedy = Remedy.BACK_OFF


class ResyncRequired(PeerError):
    """What was known of the other side is no longer true; read everything again before acting on it."""

    remedy = Remedy.RESYNC


class KernelRefused(FelixError):
    """The kernel refused a transaction, and nothing of it was applied."""

    blame = Blame.ENVIRONMENT
    remedy = Remedy.RETRY


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with one stored or given object.

    subject: what it is about: a datastore key, `file:document` of a manifest, or a parameter's name.
    field: path inside the object (`spec.ingress[2].source.nets[0]`), empty for the whole object.
    value: what was seen, shortened to 100 characters.
    reason: why it cannot be used, and what would be accepted instead.
    """

    subject: str
    field: str
    value: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.subject}: {self.field}" if self.field else self.subject
        seen = f" (seen: {self.value})" if self.value else ""
        return f"{where}: {self.reason}{seen}"


def shorten(value: object, limit: int = 100) -> str:
    """Returns `value` as text of at most `limit` characters, for use in a `Problem`."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
