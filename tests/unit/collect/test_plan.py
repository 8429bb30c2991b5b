"""The collector's judgement against worlds that change: what is in use stays, what stays leaked goes, hosts are not
missed lightly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from felix.collect.plan import Tracker
from felix.collect.types import (
    AddressLeak,
    Due,
    EmptyHandle,
    Graces,
    HostState,
    LostHost,
    Orphan,
    Reach,
    World,
    WrongCount,
)
from felix.datastore.fence import Fence, FenceState
from felix.datastore.types import KeyValue
from felix.ipam.block import Holder, give_back, new_block, render_block, take_ordinal
from felix.ipam.inventory import InventoryBuilder
from felix.ipam.records import render_affinity
from felix.model.keys import AffinityKey, BlockKey, format_handle_key, format_key
from felix.model.net import Net, parse_net
from tests.support.ipam import resource

BLOCK = parse_net("10.0.0.0/26")
GRACES = Graces(leak_s=10.0, lost_host_s=30.0)
NOWHERE = Reach()


@dataclass
class Store:
    """What is stored: addresses by ordinal with handle, endpoints by ordinal; revisions as etcd would count them."""

    revision: int = 1
    pairs: dict[str, KeyValue] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    reported: set[str] = field(default_factory=set)
    fences: dict[str, Fence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.block = new_block(BLOCK, "h1", "2020-01-01T00:00:00Z", 1000)
        self.put(format_key(AffinityKey("h1", BLOCK)), render_affinity())
        self.put(*resource("Node", "h1", {}))
        self._write()

    def put(self, key: str, value: bytes) -> None:
        self.revision += 1
        self.pairs[key] = KeyValue(key, value, self.revision)

    def delete(self, key: str) -> None:
        self.revision += 1
        self.pairs.pop(key, None)

    def give(self, ordinal: int, handle: str = "", attributes: Mapping[str, str] | None = None) -> None:
        name = handle or f"net.c{ordinal}"
        taken = take_ordinal(self.block, ordinal, Holder(name, attributes or {"node": "h1"}))
        assert taken is not None
        self.block = taken
        self._write()
        self.put(format_handle_key(name), msgspec.json.encode({"block": {str(BLOCK): 1}}))

    def take(self, ordinal: int) -> None:
        holder = self.block.find_holder(ordinal)
        assert holder is not None
        self.block = give_back(self.block, [ordinal])
        self._write()
        self.delete(format_handle_key(holder.handle or ""))

    def attach(self, ordinal: int, node: str = "h1", value: bytes = b"") -> None:
        spec = {"node": node, "containerID": f"C{ordinal}", "interfaceName": f"cali{ordinal}"}
        nets = [f"{self.block.address(ordinal)}/32"]
        key, document = resource("WorkloadEndpoint", f"e{ordinal}", {**spec, "ipNetworks": nets}, namespace="d")
        self.put(key, value or document)

    def detach(self, ordinal: int) -> None:
        self.delete(resource("WorkloadEndpoint", f"e{ordinal}", {}, namespace="d")[0])

    def world(self) -> World:
        builder = InventoryBuilder()
        builder.add(self.pairs.values())
        inventory = builder.build(self.revision)
        return World(inventory, frozenset(self.alive), frozenset(self.reported), dict(self.fences))

    def _write(self) -> None:
        self.put(format_key(BlockKey(BLOCK)), render_block(self.block))


def look(tracker: Tracker, store: Store, *moments: float, reach: Reach = NOWHERE, graces: Graces = GRACES) -> Due:
    """Returns what is due at the last of these moments."""
    due = Due()
    for now in moments:
        due = tracker.on_world(store.world(), reach, graces, now)
    return due


def every(start: float, end: float, step: float = 5.0) -> Iterable[float]:
    return (start + step * number for number in range(int((end - start) / step) + 1))


def addresses(due: Due) -> list[int]:
    return [one.address.value - BLOCK.value for one in due.findings if isinstance(one, AddressLeak)]


# --- Leaks ---

ACTS = st.lists(
    st.tuples(st.sampled_from(["give", "take", "attach", "detach", "look", "restart"]), st.integers(0, 4)), max_size=60
)


@given(ACTS)
def test_tracker_over_any_history_releases_exactly_what_stayed_leaked(acts: list[tuple[str, int]]) -> None:
    """A look comes every 5 s; what had, under one giving, no endpoint at any look of 10 s is due, all else is not."""
    store, tracker, now = Store(), Tracker("h9"), 0.0
    given_to: dict[int, int] = {}
    attached: set[int] = set()
    looks: dict[tuple[int, int], float] = {}
    for number, (act, ordinal) in enumerate([*acts, ("look", 0)]):
        if act == "give" and ordinal not in given_to:
            store.give(ordinal)
            given_to[ordinal] = number
        elif act == "take" and ordinal in given_to:
            store.take(ordinal)
            del given_to[ordinal]
        elif act == "attach":
            store.attach(ordinal)
            attached.add(ordinal)
        elif act == "detach":
            store.detach(ordinal)
            attached.discard(ordinal)
        elif act == "restart":
            tracker, looks = Tracker("h9"), {}
        elif act == "look":
            now += 5.0
            due = look(tracker, store, now)
            leaked = {(one, giving) for one, giving in given_to.items() if one not in attached}
            looks = {one: looks.get(one, now) for one in leaked}
            assert sorted(addresses(due)) == sorted(one for (one, _), since in looks.items() if now - since >= 10.0)


def test_address_whose_handle_was_written_again_is_found_anew() -> None:
    store, tracker = Store(), Tracker("h9")
    store.give(0)
    assert addresses(look(tracker, store, 0.0, 5.0)) == []
    store.put(format_handle_key("net.c0"), msgspec.json.encode({"block": {str(BLOCK): 1}}))  # an attach is under way
    assert addresses(look(tracker, store, 10.0, 15.0)) == []
    assert addresses(look(tracker, store, 20.0)) == [0]


def test_look_that_comes_too_late_begins_everything_anew() -> None:
    store, tracker = Store(), Tracker("h9")
    store.give(0)
    assert addresses(look(tracker, store, 0.0, 5.0, 16.0)) == []
    assert addresses(look(tracker, store, 21.0)) == []
    assert addresses(look(tracker, store, 26.0)) == [0]


def test_address_of_unknown_origin_without_endpoint_for_ever_or_with_one_by_another_name_is_kept() -> None:
    store = Store()
    kept = {
        0: {"node": "h1", "felix.use": "ipam-only"},
        1: {"node": "h1", "endpoint": "d/e9"},
        2: {"node": "h1", "vmi": "somebody's"},
        3: {"node": "h1", "type": "vxlanTunnelAddress"},
    }
    for ordinal, attributes in kept.items():
        store.give(ordinal, attributes=attributes)
    store.give(4, handle="net.c9")
    store.attach(9)
    store.give(5, attributes={"node": "h1", "endpoint": "d/gone"})
    store.give(6, attributes={"node": "h1", "felix.use": "pending", "task": "t"})
    store.give(7, attributes={"node": "h1", "namespace": "n", "pod": "p", "timestamp": "t"})
    due = look(Tracker("h9"), store, 0.0, 10.0)
    assert addresses(due) == [5, 6, 7]
    assert due.counts == {"address": 3, "handle": 0, "count": 0, "affinity": 0, "kept": 4}


def test_address_of_an_endpoint_that_cannot_be_used_is_kept_and_all_are_while_one_cannot_be_read() -> None:
    store, tracker = Store(), Tracker("h9")
    for ordinal in (0, 1):
        store.give(ordinal)
    bad = {"spec": {"node": "h1", "ipNetworks": [f"{store.block.address(0)}/32"], "ports": "none"}}
    store.attach(0, value=msgspec.json.encode(bad))
    assert addresses(look(tracker, store, 0.0, 10.0)) == [1]
    store.attach(3, value=b"{")
    assert addresses(look(tracker, store, 20.0)) == []


def test_most_addresses_at_once_wait_for_a_person() -> None:
    store, tracker = Store(), Tracker("h9")
    for ordinal in range(20):
        store.give(ordinal)
        store.attach(ordinal)
    for ordinal in range(10):
        store.detach(ordinal)
    assert len(addresses(look(tracker, store, 0.0, 10.0))) == 10
    store.detach(10)
    due = look(tracker, store, 15.0, 20.0, 25.0)
    assert addresses(due) == []
    assert "11 of 20 addresses have no endpoint" in due.held[0]


def test_records_that_contradict_their_block_are_put_right_after_the_grace_period() -> None:
    store, tracker = Store(), Tracker("h9")
    store.give(0)
    store.attach(0)
    store.put(format_handle_key("net.c0"), msgspec.json.encode({"block": {str(BLOCK): 3}}))
    store.put(format_handle_key("net.empty"), msgspec.json.encode({"block": {str(BLOCK): 1}}))
    stray, pending = AffinityKey("h2", BLOCK), AffinityKey("h1", BLOCK)
    store.put(format_key(stray), b'{"state":"confirmed"}')
    store.put(format_key(pending), b'{"state":"pending"}')
    assert look(tracker, store, 0.0, 5.0).findings == ()
    found = look(tracker, store, 10.0).findings
    assert [type(one) for one in found] == [EmptyHandle, WrongCount, Orphan, Orphan]
    assert [one.blocks for one in found if isinstance(one, WrongCount)] == [((BLOCK, 1),)]
    store.put(format_key(pending), b'{"state":"pending"}')  # somebody is at it just now
    assert [one.key for one in look(tracker, store, 15.0).findings if isinstance(one, Orphan)] == [stray]


def test_grace_period_of_nothing_means_never() -> None:
    store, tracker = Store(), Tracker("h9")
    store.give(0)
    store.reported.add("h1")
    due = look(tracker, store, *every(0.0, 1000.0, 15.0), graces=Graces(0.0, 30.0))
    assert (due.findings, [one.name for one in due.lost]) == ((), ["h1"])
    due = look(Tracker("h9"), store, *every(0.0, 1000.0), graces=Graces(10.0, 0.0))
    assert (addresses(due), due.lost) == ([0], ())


# --- Hosts ---


def _host_store() -> Store:
    store = Store()
    for name in ("h2", "h3"):
        store.put(*resource("Node", name, {}))
        store.alive.add(name)
    store.give(0)
    store.attach(0)
    store.reported.add("h1")
    return store


def test_silent_host_is_lost_after_its_grace_period_and_sooner_when_its_node_was_deleted() -> None:
    store = _host_store()
    assert look(Tracker("h2"), store, *every(0.0, 25.0)).lost == ()
    assert look(Tracker("h2"), store, *every(0.0, 30.0)).lost == (LostHost("h1", 30.0),)
    store.delete(resource("Node", "h1", {})[0])
    assert look(Tracker("h2"), store, *every(0.0, 10.0)).lost == (LostHost("h1", 10.0),)


def test_host_that_never_said_that_it_lives_is_never_missed() -> None:
    store = _host_store()
    store.reported.clear()
    due = look(Tracker("h2"), store, *every(0.0, 1000.0))
    assert (due.lost, dict(due.states)) == ((), {})


def test_word_of_the_host_an_endpoint_that_changes_and_its_route_begin_its_time_anew() -> None:
    for sign in ("lease", "endpoint", "route"):
        store, tracker = _host_store(), Tracker("h2")
        look(tracker, store, *every(0.0, 25.0))
        if sign == "endpoint":
            store.attach(0)
        store.alive |= {"h1"} if sign == "lease" else set()
        due = look(tracker, store, 30.0, reach=Reach(frozenset({BLOCK})) if sign == "route" else NOWHERE)
        assert due.states.get("h1") is {"lease": None, "endpoint": HostState.SILENT, "route": HostState.REACHABLE}[sign]
        store.alive.discard("h1")
        assert look(tracker, store, *every(35.0, 55.0)).lost == ()
        assert [one.name for one in look(tracker, store, 60.0, 65.0).lost] == ["h1"]


def test_route_to_a_single_address_speaks_for_nobody() -> None:
    borrowed = Reach(frozenset({Net(4, BLOCK.value, 32)}))
    assert look(Tracker("h2"), _host_store(), *every(0.0, 30.0), reach=borrowed).lost


def test_collector_without_bgp_session_gives_up_nobody() -> None:
    due = look(Tracker("h2"), _host_store(), *every(0.0, 60.0), reach=Reach(blindness="there is no session"))
    assert due.lost == ()
    assert due.held == ("1 hosts seem to be lost, but there is no session",)


def test_collector_does_not_miss_its_own_host() -> None:
    assert look(Tracker("h1"), _host_store(), *every(0.0, 60.0)).lost == ()


def test_most_hosts_at_once_wait_for_a_person() -> None:
    store = _host_store()
    other = parse_net("10.0.1.0/26")
    store.put(format_key(BlockKey(other)), render_block(new_block(other, "h2", "2020-01-01T00:00:00Z", 1)))
    store.alive.discard("h2")
    store.reported.add("h2")
    due = look(Tracker("h3"), store, *every(0.0, 30.0))
    assert due.lost == ()
    assert "2 of 3 hosts seem to be lost" in due.held[0]


def test_host_whose_cleaning_was_begun_is_cleaned_at_once_and_one_that_lives_gets_its_fence_lifted() -> None:
    store, tracker = _host_store(), Tracker("h2")
    fence = Fence("h1", created=5)
    store.fences["h1"] = fence
    assert look(tracker, store, 0.0).resume == (fence,)
    done = replace(fence, state=FenceState.DONE)
    store.fences["h1"] = done
    due = look(tracker, store, *every(5.0, 30.0))
    assert (due.resume, due.lost) == ((), ())  # what it has now came later: it is judged anew
    assert [one.name for one in look(tracker, store, 35.0).lost] == ["h1"]
    store.alive.add("h1")
    assert look(tracker, store, 40.0).lift == (done,)
