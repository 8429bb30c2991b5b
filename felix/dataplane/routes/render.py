"""Route operations as rtnetlink messages (linux/rtnetlink.h); packed by hand because a cold start writes thousands."""

from __future__ import annotations

import struct

from felix.dataplane.netlink.message import NLM_F_CREATE, NLM_F_REPLACE, attribute, message
from felix.dataplane.routes.types import SCOPE_UNIVERSE, RouteConfig, RouteKey, RouteOperation, RouteValue, Verb
from felix.model.net import Net

AF_INET = 2
AF_INET6 = 10
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PRIORITY = 6

RTNH_F_ONLINK = 4

RTMSG = struct.Struct("=BBBBBBBBI")  # family dst_len src_len tos table protocol scope type flags
_DST4 = struct.Struct("=HH4s")
_DST6 = struct.Struct("=HH16s")
_NUMBER = struct.Struct("=HHI")


def family_of(version: int) -> int:
    """Returns AF_INET or AF_INET6 for 4 or 6."""
    return AF_INET if version == 4 else AF_INET6


def render_operation(config: RouteConfig, operation: RouteOperation) -> bytes:
    """Returns one request. A DELETE names protocol, type, scope, metric and interface, so that it hits ours only."""
    body = _render_route(config, operation.key, operation.value)
    if operation.verb is Verb.REPLACE:
        # One message for both families: it creates, or swaps the route in one step. Where IPv6 has several of the
        # metric, it takes the place of one kind: of all those with a gateway, or of the first without.
        return message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body)
    return message(RTM_DELROUTE, 0, body)


def render_dump(config: RouteConfig, version: int) -> bytes:
    """Returns the request for all routes of ours; kernels that cannot filter answer with all routes."""
    return message(RTM_GETROUTE, 0, RTMSG.pack(family_of(version), 0, 0, 0, config.table, config.protocol, 0, 0, 0))


def render_question(address: Net) -> bytes:
    """Returns the request for the one route by which a packet to `address` would go."""
    header = RTMSG.pack(family_of(address.version), address.length, 0, 0, 0, 0, 0, 0, 0)
    return message(RTM_GETROUTE, 0, header + _render_destination(address))


def _render_route(config: RouteConfig, key: RouteKey, value: RouteValue) -> bytes:
    net = key.net
    scope = value.scope if net.version == 4 else SCOPE_UNIVERSE
    header = RTMSG.pack(
        family_of(net.version),
        net.length,
        0,
        key.tos,
        config.table,
        config.protocol,
        scope,
        value.kind,
        RTNH_F_ONLINK if value.is_onlink else 0,
    )
    parts = [header, _render_destination(net)]
    if key.priority:
        parts.append(_NUMBER.pack(8, RTA_PRIORITY, key.priority))
    if value.interface:
        parts.append(_NUMBER.pack(8, RTA_OIF, value.interface))
    if value.gateway is not None:
        parts.append(attribute(RTA_GATEWAY, value.gateway.packed))
    return b"".join(parts)


def _render_destination(net: Net) -> bytes:
    if net.version == 4:
        return _DST4.pack(8, RTA_DST, net.packed)
    return _DST6.pack(20, RTA_DST, net.packed)
