"""Where in a pool the next block is made, and which addresses are reserved, against plain lists."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from felix.ipam.pools import Pool, Reserved, find_free_block
from felix.model.net import Net, parse_net
from felix.model.networks import IPPoolSpec

BASE = parse_net("10.0.0.0/26")
NETS = st.integers(26, 32).flatmap(
    lambda length: st.integers(0, (1 << (length - 26)) - 1).map(
        lambda index: Net(4, BASE.value + index * (1 << (32 - length)), length)
    )
)


def make_pool(net: Net, block_size: int) -> Pool:
    return Pool("p", net, IPPoolSpec(cidr=str(net), block_size=block_size))


def addresses(nets: list[Net]) -> set[int]:
    return {value for net in nets for value in range(net.value, net.last + 1)}


@given(st.lists(NETS, max_size=6), st.lists(NETS, max_size=6), st.integers(26, 32), st.sampled_from(["h1", "h2", ""]))
def test_free_block_is_found_exactly_when_there_is_one(
    busy: list[Net], reserved: list[Net], block_size: int, host: str
) -> None:
    size = 1 << (32 - block_size)
    blocks = [Net(4, value, block_size) for value in range(BASE.value, BASE.last + 1, size)]
    taken, kept = addresses(busy), addresses(reserved)
    good = [block for block in blocks if taken.isdisjoint(addresses([block])) and not addresses([block]) <= kept]
    found = find_free_block(make_pool(BASE, block_size), host, busy, Reserved(reserved))
    assert (found in good) if good else (found is None)


@given(st.lists(NETS, max_size=6), st.integers(-4, 68))
def test_reserved_addresses_are_those_of_the_prefixes(nets: list[Net], offset: int) -> None:
    reserved = Reserved(nets)
    assert reserved.contains(4, BASE.value + offset) == (BASE.value + offset in addresses(nets))
    assert reserved.count(BASE) == len(addresses(nets))
    assert not reserved.contains(6, BASE.value)


def test_hosts_start_at_different_places_and_each_always_at_the_same() -> None:
    pool = make_pool(parse_net("10.0.0.0/8"), 26)
    starts = {find_free_block(pool, f"h{number}", [], Reserved()) for number in range(50)}
    assert len(starts) == 50
    assert find_free_block(pool, "h1", [], Reserved()) == find_free_block(pool, "h1", [], Reserved())


def test_huge_pool_that_is_reserved_whole_is_answered_at_once() -> None:
    net = parse_net("fd00::/48")
    assert find_free_block(make_pool(net, 122), "h1", [], Reserved([net])) is None
    found = find_free_block(make_pool(net, 122), "h1", [parse_net("fd00::/49")], Reserved())
    assert found is not None
    assert found.value >= parse_net("fd00:0:0:8000::").value
