"""How each host endpoint stands, put together from its interfaces and what the table is believed to do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from felix.calc.desired import ALL_INTERFACES, LocalHostEndpoint
from felix.dataplane.cycle import Cycle, EndpointCondition, EndpointReport
from felix.dataplane.hosts import HostInterfaces
from felix.dataplane.nft.plan import NftPlan
from felix.errors import Problem
from felix.model.keys import ResourceKey, format_key


class HostBoard:
    """The report of every wanted host endpoint. has_interface: whether there is one of that name."""

    def __init__(self, nft: NftPlan, hosts: HostInterfaces, has_interface: Callable[[str], bool]) -> None:
        self._nft = nft
        self._hosts = hosts
        self._has_interface = has_interface
        self._report_by_key: dict[ResourceKey, EndpointReport] = {}
        self._problems: dict[ResourceKey, Problem] = {}

    @property
    def reports(self) -> Mapping[ResourceKey, EndpointReport]:
        """The last report of each wanted host endpoint."""
        return self._report_by_key

    @property
    def problems(self) -> Mapping[ResourceKey, Problem]:
        """What is wrong with host endpoints, as of the last report."""
        return self._problems

    def report(self, cycle: Cycle) -> bool:
        """`cycle` says which reports changed; returns whether problems did. Looks at all: a host has few."""
        wanted = self._hosts.endpoints
        if not wanted and not self._report_by_key:
            return False
        for key in self._report_by_key.keys() - wanted.keys():
            del self._report_by_key[key]
            cycle.endpoints[key] = None
        problems: dict[ResourceKey, Problem] = {}
        for key, endpoint in wanted.items():
            refusal = self._nft.host_refusals.get(key)
            if refusal is not None:
                reason = f"closed except for failsafes: the kernel refuses its chains: {refusal}"
                problems[key] = Problem(format_key(key), "", "", reason)
            elif lost := self._hosts.find_lost_claims(key):
                problems[key] = lost[0]
            report = self._judge(key, endpoint, problems.get(key))
            if self._report_by_key.get(key) != report:
                self._report_by_key[key] = cycle.endpoints[key] = report
        is_news = problems != self._problems
        self._problems = problems
        return is_news

    def _judge(self, key: ResourceKey, endpoint: LocalHostEndpoint, problem: Problem | None) -> EndpointReport:
        interfaces = self._hosts.find_interfaces(key)
        is_enforced = bool(interfaces) and all(map(self._nft.is_host_enforced, interfaces))
        if problem is not None:
            return EndpointReport(EndpointCondition.ERROR, is_enforced, f"{problem.value} {problem.reason}".strip())
        if not interfaces:
            return EndpointReport(EndpointCondition.DOWN, False, "no interface has one of its expectedIPs")
        if not is_enforced:
            return EndpointReport(EndpointCondition.ERROR, False, "its policy is not in the kernel yet")
        if endpoint.interface not in ("", ALL_INTERFACES) and not self._has_interface(endpoint.interface):
            return EndpointReport(EndpointCondition.DOWN, True, f"there is no interface {endpoint.interface}")
        return EndpointReport(EndpointCondition.UP, True)
