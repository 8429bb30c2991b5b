"""Reading container interfaces back from the kernel."""

from __future__ import annotations

from felix.attach.apply import Namespace
from felix.attach.veth import VethSpec


def read_veth(namespace: Namespace, spec: VethSpec) -> list[str]:
    """Returns what is missing or wrong, in plain words ("address 10.1.0.7/32 is missing on eth0"); empty: nothing.

    What others may have added (addresses, routes, neighbours, forwarding) is no difference; an empty mac and an mtu of
    0 are not compared. Works in the calling thread's namespace and blocks shortly. Raises PeerError, KernelRefused.
    """
    raise NotImplementedError
