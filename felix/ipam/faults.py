"""What can forbid giving out or taking back an address. In every case nothing was changed.

NoPool             no pool may be used for the request; why each of them may not
Exhausted          the pools have nothing left that this host may take; with figures
AddressTaken       the address asked for by name is somebody's
NotInPool          or in nobody's pool
Stale              the address was given to somebody else meanwhile
NotReleasable      the block is in use, or not the host's
Contended          others kept changing the same blocks; the same request may succeed later
"""

from __future__ import annotations

from felix.errors import Blame, DataError, FelixError, PeerError, Remedy


class NoPool(DataError):
    """No pool may be used for the request."""


class Exhausted(FelixError):
    """The pools have nothing left for this host; a person has to make room."""

    blame = Blame.ENVIRONMENT
    remedy = Remedy.BACK_OFF


class AddressTaken(DataError):
    """The address asked for cannot be had."""


class NotInPool(AddressTaken):
    """The address asked for is in no pool that is in use, so nobody can have it."""


class Stale(DataError):
    """The address is no longer held as the request says it is."""


class NotReleasable(DataError):
    """The block cannot be taken from the host."""


class Contended(PeerError):
    """Others kept changing the same blocks."""

    remedy = Remedy.RETRY
