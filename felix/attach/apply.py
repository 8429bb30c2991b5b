"""Making and removing container interfaces in the kernel."""

from __future__ import annotations

from types import TracebackType

from felix.attach.veth import Veth, VethSpec


class Namespace:
    """A container's network namespace, held open until `close`; a context.

    The kernel keeps a held namespace even when its last process ends and its path vanishes.
    name: as it was given, for texts. inode: the namespace's number, never that of another one while this is open.
    """

    name: str
    inode: int

    def close(self) -> None:
        """The namespace is no longer held; it may be called again."""
        raise NotImplementedError

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_namespace(path: str, pid: int = 0) -> Namespace:
    """Returns the namespace at `path`, or, when that is empty, that of process `pid`.

    Raises NoNamespace when it is missing, is not a network namespace, or is the calling thread's own.
    """
    raise NotImplementedError


def apply_veth(namespace: Namespace, spec: VethSpec) -> Veth:
    """The container has the interface, up, with addresses, routes and neighbours, and its lo is up.

    Idempotent: an interface inside whose other end is our host end is completed (and loses host addresses that are not
    in `spec`). A veth of the host end's name that leads elsewhere is replaced: the name is computed from the container
    and its interface, so it is what an earlier life of the same container left.
    Works in the calling thread's namespace, blocks for a few milliseconds, for a worker thread; its namespace never
    changes. Raises DataError (the spec cannot be made), Taken (another interface has one of the names), KernelRefused,
    PeerError, EnvironmentFault (a permission). What this call made is gone again then (lo stays up); an interface that
    was there before stays.
    """
    raise NotImplementedError


def remove_veth(host_end: str) -> bool:
    """There is no such veth any more, at both ends; returns whether there was. May be repeated.

    Blocks for tens of milliseconds: the kernel waits for its readers. Raises Taken when the interface is no veth,
    KernelRefused when the kernel refuses.
    """
    raise NotImplementedError
