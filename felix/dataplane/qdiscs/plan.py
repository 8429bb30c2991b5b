"""Which workload interfaces need a shaper, and which of them have another one, or none.

Nothing here closes anybody: where the kernel refuses, the endpoint is connected without the limit, and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from felix.calc.desired import LocalEndpoint
from felix.dataplane.netlink.message import Refusal
from felix.dataplane.qdiscs.render import make_shaper
from felix.dataplane.qdiscs.types import QdiscEvent, QdiscFound, QdiscPlanned, QdiscResult, Shaper
from felix.model.keys import ResourceKey
from felix.reconcile.delta import DeltaTracker

_GONE = frozenset({2, 3, 19, 22})  # ENOENT, ESRCH, ENODEV, EINVAL (another's handle): nothing of ours left to remove


class QdiscPlan:
    """Desired and believed shapers by interface index. Pure state; only what has a shaper, or should, is kept.

    `write_port` is the netlink port of the socket that applies: its echoes are not news.
    """

    def __init__(self, write_port: int = 0) -> None:
        self.write_port = write_port
        self._is_read = False
        self._shaper_by_key: dict[ResourceKey, tuple[str, Shaper]] = {}
        self._keys_by_interface: dict[str, set[ResourceKey]] = {}
        self._index_by_name: dict[str, int] = {}
        self._name_by_index: dict[int, str] = {}
        self._shapers: DeltaTracker[int, Shaper] = DeltaTracker()
        self._refusal_by_link: dict[int, Refusal] = {}
        self._replay: list[QdiscEvent] | None = None

    # What is wanted

    def on_delta(self, endpoints: Mapping[ResourceKey, LocalEndpoint | None]) -> None:
        """These endpoints are wanted from now on, or not any more (None)."""
        touched: dict[str, None] = {}
        for key, endpoint in endpoints.items():
            name, _ = self._shaper_by_key.pop(key, ("", None))
            if name:
                self._keys_by_interface[name].discard(key)
                touched[name] = None
            if endpoint is not None and endpoint.limits is not None and endpoint.limits.bandwidth_in is not None:
                self._shaper_by_key[key] = endpoint.interface, make_shaper(endpoint.limits.bandwidth_in)
                self._keys_by_interface.setdefault(endpoint.interface, set()).add(key)
                touched[endpoint.interface] = None
        for name in touched:
            if not self._keys_by_interface[name]:
                del self._keys_by_interface[name]
            self._settle(name)

    def _settle(self, name: str) -> None:
        index = self._index_by_name.get(name)
        if index is None:
            return
        self._refusal_by_link.pop(index, None)
        keys = self._keys_by_interface.get(name)
        if keys:
            self._shapers.set_desired(index, self._shaper_by_key[min(keys)][1])
        else:
            self._shapers.drop_desired(index)

    # What is there

    def on_link(self, index: int, name: str) -> None:
        """The interface `index` is called `name`."""
        before = self._name_by_index.get(index)
        if before == name:
            return
        if before is not None:
            self.on_link_gone(index)
        other = self._index_by_name.get(name)
        if other is not None:
            self.on_link_gone(other)
        self._name_by_index[index] = name
        self._index_by_name[name] = index
        self._settle(name)

    def on_link_gone(self, index: int) -> None:
        """There is no interface `index` any more, or not of the name that it had."""
        name = self._name_by_index.pop(index, None)
        if name is not None:
            self._index_by_name.pop(name, None)
        self._shapers.drop_desired(index)
        self._believe(index, None)
        self._refusal_by_link.pop(index, None)

    def on_event(self, event: QdiscEvent) -> bool:
        """The root of an interface changed; returns whether that leaves something to do."""
        if event.port and event.port == self.write_port:
            return False
        if self._replay is not None:
            self._replay.append(event)
        self._believe(event.link, event.found)
        return not self.is_settled

    def start_read(self) -> None:
        """A dump begins: events from now on are kept, to be told again after it."""
        self._replay = []

    def replace_believed(self, links: Iterable[tuple[int, str]], qdiscs: Iterable[QdiscFound]) -> None:
        """Exactly these interfaces, and these at their roots, were read since `start_read`; failures are forgotten."""
        replay, self._replay = self._replay or [], None
        read = dict(links)
        for index in self._name_by_index.keys() - read.keys():
            self.on_link_gone(index)
        for index, name in read.items():
            self.on_link(index, name)
        self._shapers.replace_believed(())
        for found in qdiscs:
            self._believe(found.link, found)
        self._refusal_by_link.clear()
        self._is_read = True
        for event in replay:
            self._believe(event.link, event.found)

    def _believe(self, link: int, found: QdiscFound | None) -> None:
        """Others' count as nothing: they give way where a shaper is wanted, and are not ours to remove elsewhere."""
        if found is not None and found.is_ours and found.shaper is not None:
            self._shapers.note_present(link, found.shaper)
        else:
            self._shapers.note_absent(link)

    # What to do

    def plan(self, may_delete: bool) -> QdiscPlanned:
        """Returns what to write and, with `may_delete`, remove; empty before the first read."""
        if not self._is_read or self._shapers.is_settled:
            return QdiscPlanned()
        shapers = tuple(one for one in self._shapers.pending_updates() if one[0] not in self._refusal_by_link)
        stale = tuple(link for link in self._shapers.pending_deletes() if link not in self._refusal_by_link)
        return QdiscPlanned(shapers, stale if may_delete else ())

    def absorb(self, planned: QdiscPlanned, result: QdiscResult) -> None:
        """The kernel gave these answers; what it refused is not tried again before the next read or another wish."""
        for link, refusal in zip(planned.stale, result.stale, strict=True):
            if refusal is None or refusal in _GONE:
                self._shapers.note_absent(link)
            else:
                self._refusal_by_link[link] = refusal
        for (link, shaper), refusal in zip(planned.shapers, result.shapers, strict=True):
            if refusal is None:
                self._shapers.note_present(link, shaper)
            else:
                self._refusal_by_link[link] = refusal

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do, what was refused aside."""
        return self._is_read and not self.plan(may_delete=True)

    def find_shortfall(self, interface: str) -> str:
        """Returns why the bandwidth towards an endpoint is not limited; empty when it is, or need not be."""
        index = self._index_by_name.get(interface)
        refusal = None if index is None else self._refusal_by_link.get(index)
        if refusal is None:
            return ""
        return f"bandwidth towards it is not limited, the kernel refuses a tbf qdisc: {_explain(refusal)}"


def _explain(refusal: Refusal) -> str:
    return refusal.text or f"errno {int(refusal)}"
