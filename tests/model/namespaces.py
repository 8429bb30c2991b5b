"""A private network namespace for one thread of a test: no name, and gone with the thread."""

from __future__ import annotations

import ctypes
import os

_CLONE_NEWNET = 0x40000000


def enter_private_network() -> None:
    """The calling thread, and nobody else, is in a new and empty network namespace. Needs CAP_SYS_ADMIN."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
