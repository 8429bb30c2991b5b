"""What can go wrong with etcd, and which of it a gRPC status means.

EtcdUnavailable     no answer: away, too slow, without leader. `is_unsent`: the request certainly had no effect
EtcdRefused         an answer, and it is no
├── PermissionDenied      the user may not do this
├── AuthenticationFailed  user name or password are wrong
├── TokenRefused          the token is not (or no longer) valid; the client renews it by itself
├── LeaseLost             the lease has expired or was revoked, and the keys attached to it are gone
└── StoreFull             etcd takes no writes until somebody makes room
Compacted           the history asked for is gone
StoreReplaced       another cluster answers, or one that went back in time
"""

from __future__ import annotations

import re

from felix.errors import Blame, PeerError, Remedy, ResyncRequired


class EtcdUnavailable(PeerError):
    """No etcd answered in time; `is_unsent` tells that the request had no effect, else nobody knows."""

    def __init__(self, text: str, *, is_unsent: bool = False) -> None:
        super().__init__(text)
        self.is_unsent = is_unsent


class EtcdRefused(PeerError):
    """Etcd answered and refused; nothing was changed."""


class PermissionDenied(EtcdRefused):
    """The user lacks a right on the key; nothing was changed."""

    blame = Blame.DATA


class AuthenticationFailed(EtcdRefused):
    """Etcd does not accept the user name and password."""

    blame = Blame.DATA


class TokenRefused(EtcdRefused):
    """The token is missing, expired or older than a change of the rights; nothing was changed."""

    remedy = Remedy.RETRY


class LeaseLost(EtcdRefused):
    """The lease is gone, and with it every key that was attached to it."""

    remedy = Remedy.RETRY


class StoreFull(EtcdRefused):
    """Etcd's quota is used up: it answers reads and takes no writes until it is compacted and defragmented."""


class Compacted(ResyncRequired):
    """The revision asked for is no longer kept; `compact_revision` is the oldest one that is, 0 if unknown."""

    def __init__(self, text: str, compact_revision: int = 0) -> None:
        super().__init__(text)
        self.compact_revision = compact_revision


class StoreReplaced(ResyncRequired):
    """Another cluster answers than the one that was read, or its revisions went backwards."""


_UNSENT = ("failed to connect", "connections to all backends failing", "dns resolution failed", "no leader")
# gRPC repeats the address, which `where` holds already, and leads the reason in with words of its own.
_PREAMBLE = re.compile(
    r"failed to connect to all addresses; last error: [A-Z_]+: \S+: (Failed to connect to remote host: )?"
)
_NO_TOKEN = ("user name is empty", "invalid auth token", "revision of auth store is old")


def translate(code: str, details: str, where: str) -> PeerError:
    """Returns the error that a gRPC status means. code: its name; where: act and endpoint, for the error's text."""
    text = f"{where}: {_PREAMBLE.sub('', details) or code}"
    told = details.lower()
    match code:
        case "UNAUTHENTICATED":
            return TokenRefused(text)
        case "INVALID_ARGUMENT" if any(part in told for part in _NO_TOKEN):
            return TokenRefused(text)
        case "INVALID_ARGUMENT" if "authentication failed" in told:
            return AuthenticationFailed(text)
        case "PERMISSION_DENIED":
            return PermissionDenied(text)
        case "OUT_OF_RANGE" if "compacted" in told:
            return Compacted(text)
        case "OUT_OF_RANGE" if "future revision" in told:
            return StoreReplaced(text)
        case "NOT_FOUND" if "lease" in told:
            return LeaseLost(text)
        case "RESOURCE_EXHAUSTED" if "space exceeded" in told:
            return StoreFull(text)
        case (
            "INVALID_ARGUMENT"
            | "NOT_FOUND"
            | "ALREADY_EXISTS"
            | "FAILED_PRECONDITION"
            | "OUT_OF_RANGE"
            | "UNIMPLEMENTED"
        ):
            return EtcdRefused(text)
        case _:
            is_unsent = code == "UNAVAILABLE" and any(part in told for part in _UNSENT)
            return EtcdUnavailable(text, is_unsent=is_unsent)


def translate_cancel(reason: str, compact_revision: int, where: str) -> PeerError:
    """Returns the error that a cancelled watch means."""
    text = f"{where}: watch cancelled: {reason or 'no reason given'}"
    told = reason.lower()
    if compact_revision or "compacted" in told:
        return Compacted(f"{text} (history starts at {compact_revision})", compact_revision)
    if any(part in told for part in _NO_TOKEN):
        return TokenRefused(text)
    if "permission denied" in told:
        return PermissionDenied(text)
    return EtcdUnavailable(text)
