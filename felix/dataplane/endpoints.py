"""How each local endpoint stands, put together from what the families believe. Pure.

An endpoint is `up` only when its policy is in the kernel, its interface is there and up, and all its routes stand.
"""

from __future__ import annotations

from collections.abc import Mapping

from felix.calc.desired import LocalEndpoint
from felix.dataplane.cycle import Cycle, EndpointCondition, EndpointReport
from felix.dataplane.links.plan import LinkPlan
from felix.dataplane.links.types import LinkState
from felix.dataplane.nft.plan import NftPlan
from felix.dataplane.qdiscs.plan import QdiscPlan
from felix.dataplane.routes.plan import RoutePlan
from felix.errors import Problem
from felix.model.keys import ResourceKey
from felix.policy.staged import is_staged


class EndpointBoard:
    """The report of every wanted endpoint, and since when an endpoint waits to be enforced."""

    def __init__(self, nft: NftPlan, routes: RoutePlan, links: LinkPlan, qdiscs: QdiscPlan) -> None:
        self._nft = nft
        self._qdiscs = qdiscs
        self._routes = routes
        self._links = links
        self._endpoint_by_key: dict[ResourceKey, LocalEndpoint] = {}
        self._report_by_key: dict[ResourceKey, EndpointReport] = {}
        self._link_state_by_key: dict[ResourceKey, LinkState] = {}
        self._arrived_at_by_key: dict[ResourceKey, float] = {}  # changes that are not yet in the kernel
        self._dirty: dict[ResourceKey, None] = {}
        self._changed: set[ResourceKey] = set()  # endpoints that are others than at the last report
        self._rising: set[ResourceKey] = set()  # whose report waits for one more cycle
        self._problems_version = nft.problems_version

    @property
    def reports(self) -> Mapping[ResourceKey, EndpointReport]:
        """The last report of each wanted endpoint."""
        return self._report_by_key

    @property
    def endpoints(self) -> Mapping[ResourceKey, LocalEndpoint]:
        """The wanted endpoints."""
        return self._endpoint_by_key

    def oldest_wait_s(self, now: float) -> float:
        """Returns for how long the oldest change that is neither enforced nor refused has been waiting; 0: none."""
        first = next(iter(self._arrived_at_by_key.values()), None)
        return 0.0 if first is None else now - first

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None], arrived_at: float) -> None:
        """These endpoints are wanted from now on, or not any more (None); the change arrived then."""
        for key, endpoint in endpoints.items():
            self._dirty[key] = None
            self._changed.add(key)
            if endpoint is None:
                self._endpoint_by_key.pop(key, None)
                self._link_state_by_key.pop(key, None)
                self._arrived_at_by_key.pop(key, None)
                self._rising.discard(key)
            else:
                self._endpoint_by_key[key] = endpoint
                self._arrived_at_by_key.setdefault(key, arrived_at)

    def has_link_news(self) -> bool:
        """Whether the interface of an endpoint came, went, rose or fell since the last report."""
        states = self._links.pop_states()
        for key, state in states.items():
            self._link_state_by_key[key] = state
            self._dirty[key] = None
        return bool(states)

    def report(self, cycle: Cycle, now: float) -> None:
        """`cycle` says which endpoints or reports changed, how long endpoints took, and what cannot be programmed."""
        self.has_link_news()
        dirty, self._dirty = self._dirty, {}
        for key in dirty:
            self._report_one(key, cycle, now)
        self._changed.clear()
        if self._problems_version != self._nft.problems_version:
            self._problems_version = self._nft.problems_version
            cycle.problems = self.find_problems()

    def _report_one(self, key: ResourceKey, cycle: Cycle, now: float) -> None:
        endpoint = self._endpoint_by_key.get(key)
        if endpoint is None:
            if self._report_by_key.pop(key, None) is not None:
                cycle.endpoints[key] = None
            return
        report = self._judge(key, endpoint)
        if key not in self._rising and self._is_rising(key, endpoint, report) and not cycle.failures:
            self._rising.add(key)
            self._dirty[key] = None
            return
        self._rising.discard(key)
        if report.condition is EndpointCondition.UP:
            arrived_at = self._arrived_at_by_key.pop(key, None)
            if arrived_at is not None:
                cycle.latencies_s.append(now - arrived_at)
            if report.reason != endpoint.left_out:
                self._dirty[key] = None  # the kernel may be able to, next time
        elif report.condition is EndpointCondition.DOWN:
            self._arrived_at_by_key.pop(key, None)  # it waits for its interface, not for us
        else:
            self._dirty[key] = None
            if self._is_refused(key, endpoint):  # it is named, and waits for somebody to mend it
                self._arrived_at_by_key.pop(key, None)
        if key in self._changed or self._report_by_key.get(key) != report:
            self._report_by_key[key] = report
            cycle.endpoints[key] = report

    def _judge(self, key: ResourceKey, endpoint: LocalEndpoint) -> EndpointReport:
        is_enforced = self._nft.is_enforced(key)
        problem = self._nft.problems.get(key)
        if problem is not None:
            return EndpointReport(EndpointCondition.ERROR, is_enforced, problem.reason)
        if not is_enforced:
            return EndpointReport(EndpointCondition.ERROR, False, "its policy is not in the kernel yet; it is closed")
        state = self._link_state_by_key.get(key, LinkState.ABSENT)
        if state is not LinkState.UP:
            return EndpointReport(EndpointCondition.DOWN, True, f"interface {endpoint.interface} is {state.value}")
        missing = [net.address for net in endpoint.routed if not self._routes.is_routed(net)]
        if missing:
            return EndpointReport(EndpointCondition.ERROR, True, f"no route for {', '.join(missing)}")
        return EndpointReport(EndpointCondition.UP, True, self._find_shortfall(endpoint))

    def _is_rising(self, key: ResourceKey, endpoint: LocalEndpoint, report: EndpointReport) -> bool:
        """Whether only its routes are missing because its interface came within this cycle: the next one adds them."""
        before = self._report_by_key.get(key)
        was_down = before is not None and before.condition is EndpointCondition.DOWN
        is_without_route = report.condition is EndpointCondition.ERROR and report.is_enforced
        return was_down and is_without_route and not self._is_refused(key, endpoint)

    def _find_shortfall(self, endpoint: LocalEndpoint) -> str:
        """Returns what of the endpoint's wishes is not kept, as its limits: it is connected all the same."""
        if endpoint.limits is None and not endpoint.spoofed:
            return endpoint.left_out
        found = (endpoint.left_out, self._nft.find_shortfall(endpoint), self._qdiscs.find_shortfall(endpoint.interface))
        return "; ".join(filter(None, found))

    def _is_refused(self, key: ResourceKey, endpoint: LocalEndpoint) -> bool:
        return key in self._nft.problems or any(self._routes.find_refusal(net) is not None for net in endpoint.routed)

    def find_problems(self) -> dict[ResourceKey, Problem]:
        """Returns what is wrong with policies and endpoints of workloads in the kernel, all of it."""
        problems = dict(self._nft.problems)
        for chain, policy, endpoints in self._nft.closed_chains():
            names = ", ".join(str(key) for key in endpoints[:5]) or "no endpoint"
            if policy is not None and is_staged(policy.kind):
                reason = f"the kernel refuses its chain {chain}: it is not tried and counts nothing"
            else:
                reason = f"the kernel refuses its chain {chain}, which now denies everything; closed: {names}"
            for key in [policy] if policy is not None else endpoints:
                problems[key] = Problem(str(key), "", "", reason)
        for chain, reason in self._nft.shortfalls.items():
            key = ResourceKey("Chain", "", chain)
            problems[key] = Problem(f"chain {chain}", "", "", f"the kernel refuses it, it has no effect: {reason}")
        return problems
