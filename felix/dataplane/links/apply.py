"""Making link settings true: reads first, writes only what is not right."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from felix.dataplane.links.render import render_neighbour, render_neighbour_removal
from felix.dataplane.links.types import HOST, LinkConfig, LinkPlanned, LinkResult, Settings, SysctlMended
from felix.dataplane.netlink.apply import NetlinkSocket

_SYSCTL_ROOT = "/proc/sys"


def apply_links(netlink: NetlinkSocket, config: LinkConfig, planned: LinkPlanned) -> LinkResult:
    """The settings stand except those named in the result; neighbours are written, then stale ones removed.

    Settings are those of the calling thread's network namespace. Blocks; for a worker thread.
    Raises ResyncRequired or PeerError when it is unknown which neighbours were written: read again.
    """
    reason_by_link: dict[int, str] = {}
    mended: list[SysctlMended] = []
    for settings in planned.settings:
        try:
            mended += _mend(settings)
        except OSError as error:
            reason_by_link[settings.link] = f"{error.filename or settings.name}: {error.strerror}"
    messages = [render_neighbour(config, key, value) for key, value in planned.neighbours]
    messages += [render_neighbour_removal(key) for key in planned.stale_neighbours]
    answers = tuple(netlink.transact(messages)) if messages else ()
    split = len(planned.neighbours)
    return LinkResult(reason_by_link, tuple(mended), answers[:split], answers[split:])


def _mend(settings: Settings) -> Iterator[SysctlMended]:
    # A name can pass to another interface between plan and write; the index cannot have two names.
    if settings.link != HOST and socket.if_nametoindex(settings.name) != settings.link:
        raise OSError(19, "the name belongs to another interface now", settings.name)
    for path, value in settings.sysctls:
        handle = os.open(f"{_SYSCTL_ROOT}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            before = os.read(handle, 64).decode().strip()
        finally:
            os.close(handle)
        if before == value:
            continue
        handle = os.open(f"{_SYSCTL_ROOT}/{path}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(handle, value.encode())
        finally:
            os.close(handle)
        yield SysctlMended(path, before, value)
