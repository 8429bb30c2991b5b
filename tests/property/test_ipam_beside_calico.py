"""Our allocators and Calico's at once on the same blocks: no address twice, nothing that the other trips over."""

from __future__ import annotations

from collections.abc import Coroutine

from hypothesis import given, settings
from hypothesis import strategies as st

from felix.ipam.apply import Allocator
from felix.ipam.faults import Exhausted
from felix.ipam.types import Request
from felix.model.net import Net
from tests.model.calico_ipam import CalicoIpam
from tests.model.fake_store import FakeStore, run_interleaved
from tests.property.test_ipam_interleaving import PACE
from tests.support.ipam import check_laws, config, pool, read_blocks

POOL = "10.0.0.0/27"
"""Of eight blocks: of up to six that begin at once, each may find none of its host's and make one."""
LIVES = st.tuples(st.sampled_from(["felix", "calico"]), st.sampled_from(["h1", "h2"]), st.booleans())


async def live_as_felix(store: FakeStore, host: str, handle: str, *, ends: bool) -> str | None:
    allocator = Allocator(store, PACE)
    (address,) = await allocator.auto_assign(Request(host, handle, 1))
    if ends:
        assert await allocator.release_handle(handle) == [address]
        return None
    return address.address


async def live_as_calico(store: FakeStore, host: str, handle: str, *, ends: bool) -> str | None:
    calico = CalicoIpam(store, host, POOL, 30)
    address = await calico.auto_assign(handle)
    if address and ends:
        await calico.release(address, handle)
        return None
    return address


@settings(max_examples=300)
@given(st.lists(LIVES, min_size=2, max_size=6), st.booleans(), st.data())
def test_both_at_once_give_each_address_once_and_agree_in_the_end(
    lives: list[tuple[str, str, bool]], strict: bool, data: st.DataObject
) -> None:
    store = FakeStore(is_interleaved=True)
    for key, value in (pool("p", POOL, blockSize=30), config(strict=strict)):
        store.put(key, value)
    coroutines: list[Coroutine[object, None, object]] = [
        (live_as_felix if who == "felix" else live_as_calico)(store, host, f"n.{number}", ends=ends)
        for number, (who, host, ends) in enumerate(lives)
    ]
    answers = run_interleaved(coroutines, lambda count: data.draw(st.integers(0, count - 1)))
    assert not any(isinstance(answer, Exhausted) for answer in answers)
    values = {key: pair.value for key, pair in store.pairs.items()}
    held = {
        block.address(ordinal): holder.handle
        for block in read_blocks(values).values()
        for ordinal, holder in block.held()
    }
    expected = {str(answer): f"n.{number}" for number, answer in enumerate(answers) if answer is not None}
    assert held == expected
    assert len(expected) == sum(answer is not None for answer in answers)
    check_laws(values)


def test_addresses_that_calico_gave_are_released_by_us_and_the_other_way_round() -> None:
    store = FakeStore(is_interleaved=True)
    store.put(*pool("p", POOL, blockSize=30))
    calico, felix = CalicoIpam(store, "h1", POOL, 30), Allocator(store, PACE)
    (first,) = run_interleaved([calico.auto_assign("n.calico")], lambda _: 0)
    (second,) = run_interleaved([felix.auto_assign(Request("h1", "n.felix", 1))], lambda _: 0)
    assert isinstance(second, list)
    (mine,) = second
    assert isinstance(mine, Net)
    assert (first, mine.address) == ("10.0.0.0", "10.0.0.1")
    run_interleaved([calico.release(mine.address, "n.felix"), felix.release_handle("n.calico")], lambda _: 0)
    values = {key: pair.value for key, pair in store.pairs.items()}
    check_laws(values)
    (block,) = read_blocks(values).values()
    assert block.is_empty
