"""The BGP objects of the datastore → one configuration of BIRD, with every decision made. Pure.

What passes, where no BGPFilter of the session says otherwise:

- announced: own blocks, and everything else inside a pool that is enabled and exported (borrowed addresses that the
  agent's routes to workloads show, what other speakers said); never a part of an own block, nor what the agent's routes
  to other hosts show (VXLAN), who announce it themselves;
- taken in: what lies inside a pool; never an own block or a prefix of it. Single addresses inside an own block are
  taken: another host has borrowed them. Locally they lose against the agent's route by metric;
- written into the kernel: what BGP brought and the import let pass, except inside pools whose routes the agent writes
  itself (VXLAN), or none of any pool with programClusterRoutes Disabled.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from felix.calc.bgp import BgpInputs
from felix.dataplane.bird.filters import build_functions, community_operation
from felix.dataplane.bird.peers import build_sessions, global_spec, host_address, host_spec
from felix.dataplane.bird.types import BirdContext, BirdOptions, BuiltContext, Family, FilterFunction, Session
from felix.errors import Problem, shorten
from felix.model.keys import ResourceKey
from felix.model.net import Net, parse_net
from felix.model.records import IPPool

_INTERFACE = re.compile(r"[A-Za-z0-9_.@:*?-]{1,15}")
_KUBE_INTERFACES = "kube-ipvs*"
_LOG_CLASSES_BY_SEVERITY = {
    "trace": ("debug", "trace", "info", "remote", "warning", "error", "auth", "fatal", "bug"),
    "debug": ("debug", "trace", "info", "remote", "warning", "error", "auth", "fatal", "bug"),
    "info": ("trace", "info", "remote", "warning", "error", "auth", "fatal", "bug"),
    "warning": ("remote", "warning", "error", "auth", "fatal", "bug"),
    "error": ("error", "auth", "fatal", "bug"),
    "fatal": ("fatal", "bug"),
}
_DEBUG_BY_SEVERITY = {"trace": "all", "debug": "all", "info": "{ states }"}


def build_context(inputs: BgpInputs, options: BirdOptions | None = None) -> BuiltContext:
    """Returns the configuration for this host, equal for equal inputs, and the problems of what had to be left out."""
    options = options or BirdOptions()
    found = build_sessions(inputs, options)
    problems = list(found.problems)
    functions, bad_filters = _build_filters(inputs, found.sessions, problems)
    communities = _build_communities(inputs, problems)
    families = tuple(_build_family(version, inputs, communities, found.reachable, problems) for version in (4, 6))
    problems += _unsupported(inputs)
    severity = _severity(inputs, problems)
    context = BirdContext(
        router_id=router_id(inputs),
        log_classes=_LOG_CLASSES_BY_SEVERITY[severity],
        debug=_DEBUG_BY_SEVERITY.get(severity, "off"),
        ignored_interfaces=_ignored_interfaces(inputs, options, problems),
        workload_interfaces=tuple(f"{prefix}*" for prefix in options.interface_prefixes),
        route_protocol=options.route_protocol,
        families=families,
        filters=functions,
        sessions=tuple(_attach_filters(session, functions, bad_filters) for session in found.sessions),
    )
    return BuiltContext(context, tuple(problems))


def router_id(inputs: BgpInputs) -> str:
    """Returns the host's IPv4 address, or one made from its name when it has none."""
    own = host_address(inputs, inputs.hostname, 4)
    if own:
        return own
    digest = hashlib.sha256(inputs.hostname.encode()).digest()
    # The first number lies in 1-223, as in addresses that a router could have.
    return str(ipaddress.IPv4Address(bytes((digest[0] % 223 + 1, *digest[1:4]))))


def _build_filters(
    inputs: BgpInputs, sessions: Sequence[Session], problems: list[Problem]
) -> tuple[tuple[FilterFunction, ...], frozenset[str]]:
    wanted = sorted({name for session in sessions for name in session.filter_names})
    functions: list[FilterFunction] = []
    missing: set[str] = set()
    for name in wanted:
        source = inputs.filters.get(name)
        if source is None:
            missing.add(name)
            users = ", ".join(sorted({str(session.origin) for session in sessions if name in session.filter_names}))
            reason = f"does not exist or cannot be read, and {users} names it: those sessions pass nothing"
            problems.append(Problem(str(ResourceKey("BGPFilter", "", name)), "", "", reason))
            continue
        built, found = build_functions(name, source)
        functions += built
        problems += found
    return tuple(functions), frozenset(missing)


def _attach_filters(session: Session, functions: Sequence[FilterFunction], missing: frozenset[str]) -> Session:
    suffixes = {"import": f"_import{session.version}", "export": f"_export{session.version}"}
    ordered = {
        direction: tuple(
            function.name
            for name in session.filter_names
            for function in functions
            if function.origin == ResourceKey("BGPFilter", "", name) and function.name.endswith(suffix)
        )
        for direction, suffix in suffixes.items()
    }
    return replace(
        session,
        imports=ordered["import"],
        exports=ordered["export"],
        is_closed=not missing.isdisjoint(session.filter_names),
    )


def _build_family(
    version: int,
    inputs: BgpInputs,
    communities: Sequence[tuple[Net, tuple[str, ...]]],
    reachable: Iterable[tuple[Net, Net]],
    problems: list[Problem],
) -> Family:
    spec = global_spec(inputs)
    pools: list[tuple[Net, IPPool]] = []
    for name, pool in sorted(inputs.pools.items()):
        try:
            net = parse_net(pool.spec.cidr)
        except ValueError as reason:
            if version == 4:
                key = ResourceKey("IPPool", "", name)
                problems.append(Problem(str(key), "spec.cidr", shorten(pool.spec.cidr), f"{reason}; no BGP for it"))
            continue
        if net.version == version:
            pools.append((net, pool))
    is_unprogrammed = spec is not None and spec.program_cluster_routes == "Disabled"
    return Family(
        version=version,
        pools=_sorted(net for net, _ in pools),
        exported_pools=_sorted(
            net for net, pool in pools if not pool.spec.disabled and not pool.spec.disable_bgp_export
        ),
        unprogrammed_pools=_sorted(
            net for net, pool in pools if is_unprogrammed or pool.spec.vxlan_mode not in {"", "Never"}
        ),
        # A block of one address is its workload's route itself, which the kernel shows.
        own_blocks=_sorted(block for block in inputs.blocks if block.version == version and not block.is_address),
        communities=tuple(item for item in communities if item[0].version == version),
        reachable=tuple((str(peer), gateway.address) for peer, gateway in reachable if peer.version == version),
    )


def _build_communities(inputs: BgpInputs, problems: list[Problem]) -> list[tuple[Net, tuple[str, ...]]]:
    spec = global_spec(inputs)
    own_spec = host_spec(inputs, inputs.hostname)
    source = "default" if own_spec is None or not own_spec.prefix_advertisements else f"node.{inputs.hostname}"
    chosen = own_spec if source != "default" else spec
    value_by_name = {entry.name: entry.value for entry in (spec.communities if spec else ())}
    built: list[tuple[Net, tuple[str, ...]]] = []
    for index, advertisement in enumerate(chosen.prefix_advertisements if chosen else ()):
        try:
            net = parse_net(advertisement.cidr)
            operations = [community_operation(value_by_name.get(text) or text) for text in advertisement.communities]
        except ValueError as reason:
            key = ResourceKey("BGPConfiguration", "", source)
            field = f"spec.prefixAdvertisements[{index}]"
            problems.append(Problem(str(key), field, "", f"{reason}; it marks nothing"))
            continue
        built.append((net, tuple(operations)))
    return sorted(built)


def _unsupported(inputs: BgpInputs) -> Iterable[Problem]:
    for name, pool in sorted(inputs.pools.items()):
        if pool.spec.ipip_mode not in {"", "Never"}:
            reason = "IPIP is not supported: routes into this pool go without a tunnel; use vxlanMode"
            yield Problem(str(ResourceKey("IPPool", "", name)), "spec.ipipMode", pool.spec.ipip_mode, reason)
    for name in ("default", f"node.{inputs.hostname}"):
        found = inputs.configurations.get(name)
        if found is None:
            continue
        spec = found.spec
        set_by_field = {
            "serviceClusterIPs": spec.service_cluster_ips,
            "serviceExternalIPs": spec.service_external_ips,
            "serviceLoadBalancerIPs": spec.service_load_balancer_ips,
            "localWorkloadPeeringIPV4": spec.local_workload_peering_ipv4,
            "localWorkloadPeeringIPV6": spec.local_workload_peering_ipv6,
            "ipv4NormalRoutePriority": spec.ipv4_normal_route_priority,
            "ipv6NormalRoutePriority": spec.ipv6_normal_route_priority,
        }
        for field, value in set_by_field.items():
            if value:
                key = ResourceKey("BGPConfiguration", "", name)
                yield Problem(str(key), f"spec.{field}", shorten(value), "is not supported and has no effect")


def _severity(inputs: BgpInputs, problems: list[Problem]) -> str:
    for name, spec in (
        (f"node.{inputs.hostname}", host_spec(inputs, inputs.hostname)),
        ("default", global_spec(inputs)),
    ):
        text = spec.log_severity_screen if spec else ""
        if text.lower() in _LOG_CLASSES_BY_SEVERITY:
            return text.lower()
        if text:
            key = ResourceKey("BGPConfiguration", "", name)
            reason = "is none of Trace, Debug, Info, Warning, Error, Fatal; Info is used"
            problems.append(Problem(str(key), "spec.logSeverityScreen", shorten(text), reason))
    return "info"


def _ignored_interfaces(inputs: BgpInputs, options: BirdOptions, problems: list[Problem]) -> tuple[str, ...]:
    spec = global_spec(inputs)
    patterns = [*(f"{prefix}*" for prefix in options.interface_prefixes), _KUBE_INTERFACES]
    for index, pattern in enumerate(spec.ignored_interfaces if spec else ()):
        if _INTERFACE.fullmatch(pattern):
            patterns.append(pattern)
            continue
        key = ResourceKey("BGPConfiguration", "", "default")
        reason = "is no interface name or pattern; it is not ignored"
        problems.append(Problem(str(key), f"spec.ignoredInterfaces[{index}]", shorten(pattern), reason))
    return tuple(dict.fromkeys(patterns))


def _sorted(nets: Iterable[Net]) -> tuple[Net, ...]:
    return tuple(sorted(set(nets)))
