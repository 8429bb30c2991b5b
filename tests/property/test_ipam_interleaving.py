"""Allocators that work at the same time, each stopped or killed at any moment: no address twice, nothing half done."""

from __future__ import annotations

from collections.abc import Coroutine

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.ipam.apply import Allocator, Pace
from felix.ipam.faults import Contended, Exhausted, NotReleasable
from felix.ipam.release import Release
from felix.ipam.types import Request
from felix.model.net import Net, parse_net
from tests.model.fake_store import FakeStore, rest, run, run_interleaved
from tests.support.ipam import check_laws, config, pool, read_blocks

HOSTS = ("h1", "h2", "h3")
HANDLES = ("n.a", "n.b", "n.c", "n.d")
BLOCKS = ("10.0.0.0/30", "10.0.0.4/30", "fd00::/126")
PACE = Pace(sleep=rest, fraction=lambda: 0.0, wall=lambda: 1_700_000_000.0)

ACTS = st.one_of(
    st.tuples(st.just("auto"), st.sampled_from(HOSTS), st.sampled_from(HANDLES), st.integers(0, 5), st.integers(0, 2)),
    st.tuples(st.just("assign"), st.sampled_from(HOSTS), st.sampled_from(HANDLES), st.integers(0, 7)),
    st.tuples(st.just("release"), st.integers(0, 7)),
    st.tuples(st.just("forget"), st.sampled_from(HANDLES)),
    st.tuples(st.just("lose"), st.sampled_from(HOSTS)),
    st.tuples(st.just("leave"), st.sampled_from(HOSTS), st.sampled_from(BLOCKS), st.booleans()),
)


def make_store(*, strict: bool) -> FakeStore:
    store = FakeStore(is_interleaved=True)
    for key, value in (
        pool("v4", "10.0.0.0/29", blockSize=30),
        pool("v6", "fd00::/125", blockSize=126),
        config(strict=strict),
    ):
        store.put(key, value)
    return store


def address(ordinal: int) -> Net:
    return Net(4, parse_net("10.0.0.0").value + ordinal, 32)


def start(store: FakeStore, act: tuple[object, ...]) -> Coroutine[object, None, object]:
    allocator = Allocator(store, PACE)
    match act:
        case ("auto", str(host), str(handle), int(ipv4), int(ipv6)):
            return allocator.auto_assign(Request(host, handle, ipv4, ipv6))
        case ("assign", str(host), str(handle), int(ordinal)):
            return allocator.assign(Request(host, handle), address(ordinal))
        case ("release", int(ordinal)):
            return allocator.release([Release(address(ordinal))])
        case ("forget", str(handle)):
            return allocator.release_handle(handle)
        case ("lose", str(host)):
            return allocator.release_host(host)
        case ("leave", str(host), str(block), bool(must_be_empty)):
            return allocator.release_affinity(host, parse_net(block), must_be_empty=must_be_empty)
    raise AssertionError(act)


def check_after_every_change(store: FakeStore) -> None:
    store.observe = lambda: check_laws({key: pair.value for key, pair in store.pairs.items()})


@settings(max_examples=300)
@given(st.lists(ACTS, min_size=2, max_size=7), st.booleans(), st.data())
def test_stored_state_at_every_moment_of_any_interleaving_and_any_death_obeys_the_laws(
    acts: list[tuple[object, ...]], strict: bool, data: st.DataObject
) -> None:
    store = make_store(strict=strict)
    check_after_every_change(store)
    deaths = data.draw(st.sets(st.integers(0, 60), max_size=3))
    steps = iter(range(10_000))
    answers = run_interleaved(
        [start(store, act) for act in acts],
        lambda count: data.draw(st.integers(0, count - 1)),
        lambda: next(steps) in deaths,
    )
    for answer in answers:
        assert not isinstance(answer, Contended)
    for handle in HANDLES:
        run(Allocator(store, PACE).release_handle(handle))
    for host in HOSTS:
        run(Allocator(store, PACE).release_host(host))
    assert read_blocks({key: pair.value for key, pair in store.pairs.items()}) == {}
    assert [key for key in store.pairs if key.startswith("/calico/ipam/v2/") and not key.endswith("config")] == []


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(HOSTS), st.integers(1, 4)), min_size=2, max_size=6), st.data())
def test_addresses_given_at_the_same_time_are_different_and_none_is_kept_back(
    wishes: list[tuple[str, int]], data: st.DataObject
) -> None:
    store = make_store(strict=False)
    check_after_every_change(store)
    requests = [Request(host, f"n.{number}", count) for number, (host, count) in enumerate(wishes)]
    answers = run_interleaved(
        [Allocator(store, PACE).auto_assign(request) for request in requests],
        lambda count: data.draw(st.integers(0, count - 1)),
    )
    given_out = [one for answer in answers if isinstance(answer, list) for one in answer]
    assert len(set(given_out)) == len(given_out)
    for request, answer in zip(requests, answers, strict=True):
        if isinstance(answer, list):
            assert len(answer) == request.ipv4
        else:
            assert isinstance(answer, Exhausted)
    refused = [request.ipv4 for request, answer in zip(requests, answers, strict=True) if isinstance(answer, Exhausted)]
    assert all(count > 8 - len(given_out) for count in refused)


def test_refusal_of_a_block_in_use_changes_nothing() -> None:
    store = make_store(strict=False)
    (first,) = run(Allocator(store, PACE).auto_assign(Request("h1", "n.a", 1)))
    block = parse_net(f"{first.address}/30")
    (answer,) = run_interleaved([Allocator(store, PACE).release_affinity("h1", block, must_be_empty=True)], lambda _: 0)
    assert isinstance(answer, NotReleasable)
    assert str(answer).endswith("has 1 addresses in use")
