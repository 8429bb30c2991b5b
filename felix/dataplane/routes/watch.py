"""Route events: which groups to join, and how a datagram reaches the plan."""

from __future__ import annotations

from felix.dataplane.netlink.message import HEADER
from felix.dataplane.routes.plan import RoutePlan
from felix.dataplane.routes.read import parse_route_events
from felix.dataplane.routes.render import RTM_DELROUTE, RTM_NEWROUTE

RTNLGRP_IPV4_ROUTE = 7
RTNLGRP_IPV6_ROUTE = 11
GROUPS = (RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)
"""To be joined on the same socket as the link groups: the order between links and routes is part of the truth."""


def feed(plan: RoutePlan, datagram: bytes) -> bool:
    """The plan knows what the datagram says; returns whether that leaves something to do. Skips other messages."""
    if not is_route_datagram(datagram):
        return False
    is_concerned = False
    for event in parse_route_events(datagram, plan.config):
        is_concerned |= plan.on_route(event)
    return is_concerned


def is_route_datagram(datagram: bytes) -> bool:
    """Whether the datagram is about routes; one is never about routes and something else."""
    return len(datagram) >= HEADER.size and HEADER.unpack_from(datagram)[1] in (RTM_NEWROUTE, RTM_DELROUTE)
