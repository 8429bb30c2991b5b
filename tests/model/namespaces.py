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


def open_network() -> int:
    """Returns a file descriptor that stands for the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def join_network(descriptor: int) -> None:
    """The calling thread is in the network namespace that `descriptor` stands for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
