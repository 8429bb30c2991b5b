"""Attaching on a host in memory: every step that fails, alone and with etcd lost; repeats, restarts, and races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from felix.attach import driver, mailbox
from felix.attach.check import Place
from felix.attach.types import Code, Refusal
from felix.attach.veth import Taken
from felix.errors import KernelRefused
from felix.ipam.apply import Allocator
from felix.ipam.types import Request
from felix.model.keys import format_fence_key
from tests.model.attach_world import NODE, AttachWorld
from tests.support.ipam import check_laws, pool, resource
from tests.support.store import until

STEPS = 8
"""Calls of the store in an attach: some more than it makes, so that the last ones fail nothing."""


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AttachWorld]:
    monkeypatch.setattr(driver, "_RETRY_S", 0.005)
    monkeypatch.setattr(mailbox, "_FIRST_RETRY_S", 0.005)
    monkeypatch.setattr(driver, "_CONVERGE_S", 0.05)
    world = AttachWorld()
    yield world
    await world.service.close()


def as_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


async def settle_debts(world: AttachWorld) -> None:
    paying = asyncio.create_task(world.service.debts.run())
    await until(lambda: not len(world.service.debts))
    paying.cancel()
    with suppress(asyncio.CancelledError):
        await paying


async def test_attach_gives_address_endpoint_interface_and_detach_takes_all_back(world: AttachWorld) -> None:
    answer = await world.attach(ipv6=1)
    world.check_whole()
    assert answer["endpoint"] == "default/h1-cni-c1-eth0"
    assert answer["gateways"] == ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"]
    assert set(world.held.values()) == {"net1.c1"}
    addresses = answer["addresses"]
    assert isinstance(addresses, list)
    assert sorted(await world.detach()) == sorted(one.partition("/")[0] for one in addresses)
    world.check_nothing()
    assert await world.detach() == []


@pytest.mark.parametrize("how", ["unsent", "unanswered"])
@pytest.mark.parametrize("step", range(1, STEPS))
async def test_attach_with_one_call_lost_completes(world: AttachWorld, step: int, how: str) -> None:
    first = world.store.calls
    world.store.lost = lambda call: how if call - first == step else ""
    await world.attach()
    world.check_whole()


@pytest.mark.parametrize("how", ["unsent", "unanswered"])
@pytest.mark.parametrize("step", range(1, STEPS))
async def test_attach_with_etcd_lost_for_good_leaves_nothing_once_it_is_back(
    world: AttachWorld, step: int, how: str
) -> None:
    world.is_enforcing = False  # so that it is not done before
    first = world.store.calls
    world.store.lost = lambda call: "" if call - first < step else how if call - first == step else "unsent"
    with pytest.raises(Refusal) as refused:
        await world.attach(deadline_s=0.05)
    assert refused.value.code in (Code.UNAVAILABLE, Code.TIMEOUT)
    assert world.kernel.spec_by_end == {}
    world.store.lost = lambda _: ""
    world.tell_agent()
    await settle_debts(world)
    world.check_nothing()


@pytest.mark.parametrize("step", range(1, STEPS))
async def test_attach_interrupted_by_the_agents_end_is_completed_by_the_next(world: AttachWorld, step: int) -> None:
    first = world.store.calls
    stopped = asyncio.Event()

    def stop() -> None:
        if world.store.calls - first == step:
            stopped.set()
            world.service._is_closing = True
            for task in world.service._tasks:
                task.cancel()

    world.store.before_txn = stop
    with suppress(Refusal):
        await world.attach()
    world.store.before_txn = lambda: None
    await world.service.close()
    world.start_agent()
    await world.attach()
    world.check_whole()
    await world.detach()
    world.check_nothing()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("open", KernelRefused("no")),
        ("make", KernelRefused("no")),
        ("make", Taken("eth0 is somebody's")),
        ("make", OSError("broken")),
    ],
)
async def test_attach_that_the_kernel_refuses_leaves_nothing(world: AttachWorld, step: str, error: Exception) -> None:
    world.kernel.failures[step] = error
    with pytest.raises(type(error)):
        await world.attach()
    world.check_nothing()


async def test_attach_that_is_never_enforced_is_undone_at_its_deadline(world: AttachWorld) -> None:
    world.is_enforcing = False
    with pytest.raises(Refusal, match=r"not attached within 0\.05 s: the agent has not taken") as refused:
        await world.attach(deadline_s=0.05)
    assert refused.value.code is Code.TIMEOUT
    world.check_nothing()


async def test_interface_that_cannot_be_removed_keeps_nothing_else(world: AttachWorld) -> None:
    world.is_enforcing = False
    world.kernel.failures["remove"] = KernelRefused("busy")
    with pytest.raises(Refusal):
        await world.attach(deadline_s=0.05)
    assert world.endpoints == []
    assert world.held == {}


async def test_attach_again_answers_what_is_there_and_makes_nothing(world: AttachWorld) -> None:
    first = await world.attach()
    revision = world.store.revision
    again = await world.attach()
    assert again["addresses"] == first["addresses"]
    assert (first["is_new"], again["is_new"]) == (True, False)
    assert world.store.revision == revision
    world.check_whole()


async def test_second_attach_that_fails_leaves_the_first_alone(world: AttachWorld) -> None:
    await world.attach()
    world.is_enforcing = False
    with pytest.raises(Refusal):
        await world.attach(deadline_s=0.05)
    world.is_enforcing = True
    world.check_whole()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"network": "net2"}, "its network is net1"),
        ({"addresses": ["10.0.0.9"], "ipv4": 0}, "it does not have 10.0.0.9"),
        ({"ipv4": 2}, "it has 1 addresses of IPv4, not 2"),
        ({"mac": "02:00:00:00:00:01"}, "its MAC address is"),
        ({"namespace": "other"}, "is attached already, as endpoint default/"),
    ],
)
async def test_attach_of_an_attached_container_otherwise_is_a_conflict(
    world: AttachWorld, fields: dict[str, object], words: str
) -> None:
    await world.attach()
    with pytest.raises(Refusal, match=words) as refused:
        await world.attach("c1", **fields)
    assert refused.value.code is Code.CONFLICT
    world.check_whole()


@pytest.mark.parametrize("namespace", ["default", "other"])
async def test_container_with_a_new_namespace_loses_what_the_former_one_had(world: AttachWorld, namespace: str) -> None:
    first = await world.attach()
    second = await world.attach(netns="/run/netns/b", namespace=namespace, network="net2")
    world.check_whole()
    assert set(world.held.values()) == {"net2.c1"}
    assert second["addresses"] != first["addresses"]


async def test_half_an_attachment_without_interface_is_completed(world: AttachWorld) -> None:
    first = await world.attach()
    world.kernel.spec_by_end.clear()
    world.start_agent()
    again = await world.attach()
    assert again["addresses"] == first["addresses"]
    assert again["is_new"]
    world.check_whole()


async def test_endpoint_of_somebody_else_is_left_alone(world: AttachWorld) -> None:
    key, value = resource(
        "WorkloadEndpoint", "h1-cni-c1-eth0", {"node": "h1", "interfaceName": "cali1"}, namespace="default"
    )
    world.store.put(key, value)
    with pytest.raises(Refusal, match="was not made by this agent"):
        await world.attach()
    assert world.values[key] == value
    assert world.held == {}


async def test_detach_ends_a_running_attach(world: AttachWorld) -> None:
    world.is_enforcing = False
    attaching = asyncio.create_task(world.attach())
    await until(lambda: world.kernel.made)
    await world.detach()
    with pytest.raises(Refusal, match="was detached before") as refused:
        await attaching
    assert refused.value.code is Code.CONFLICT
    world.check_nothing()


async def test_many_containers_at_once_have_addresses_of_their_own(world: AttachWorld) -> None:
    names = [f"c{number}" for number in range(50)]
    answers = await asyncio.gather(*(world.attach(name) for name in names))
    assert len({str(answer["addresses"]) for answer in answers}) == 50
    await asyncio.gather(*(world.detach(name) for name in names))
    world.check_nothing()


async def test_same_container_many_times_at_once_is_attached_once(world: AttachWorld) -> None:
    answers = await asyncio.gather(*(world.attach() for _ in range(10)))
    assert len({str(answer["addresses"]) for answer in answers}) == 1
    assert sorted(bool(answer["is_new"]) for answer in answers) == [False] * 9 + [True]
    world.check_whole()


async def test_attach_waits_while_the_agent_is_not_in_sync(world: AttachWorld) -> None:
    world.set_obstacle("the agent is not in sync yet")
    with pytest.raises(Refusal, match="the agent is not in sync yet") as refused:
        await world.attach(deadline_s=0.05)
    assert refused.value.code is Code.UNAVAILABLE
    assert (await world.parts.routes.answers()["/v1/ready-to-attach"]({})) != {}
    waiting = asyncio.create_task(world.attach())
    await asyncio.sleep(0)
    assert world.endpoints == []
    world.set_obstacle("")
    await waiting
    world.check_whole()
    assert (await world.parts.routes.answers()["/v1/ready-to-attach"]({})) == {}


async def test_addresses_run_out_with_figures_and_nothing_is_left(world: AttachWorld) -> None:
    world.store.put(*pool("p4", "10.0.0.0/32", blockSize=32))
    await world.attach("c1")
    status, document = await world.post(
        "/v1/attach", network="net1", container="c2", netns="/run/netns/b", ipv4=1, ipv6=1
    )
    assert (status, document["code"]) == (409, "exhausted")
    assert "1 of 1 addresses in use" in str(document["error"])
    world.check_whole()
    assert world.codes == ["exhausted"]


async def test_requested_address_is_given_or_refused(world: AttachWorld) -> None:
    answer = await world.attach(addresses=["10.0.0.77"], ipv4=1)
    assert answer["addresses"] == ["10.0.0.77/32", "10.0.0.64/32"]
    status, document = await world.post(
        "/v1/attach", network="net1", container="c2", netns="/run/netns/b", addresses=["10.0.0.77"]
    )
    assert (status, document["code"]) == (409, "conflict")
    assert "handle net1.c1" in str(document["error"])


async def test_given_address_that_is_released_stays_held_until_its_container_is_detached(world: AttachWorld) -> None:
    _, document = await world.post("/v1/ipam/allocate", handle="uid-1", ipv4=2, attributes={"felix.use": "pending"})
    addresses = document["addresses"]
    assert isinstance(addresses, list)
    await world.attach(given=addresses, ipv4=0, network_profile=False)
    for request in ({"addresses": addresses[:1]}, {"handle": "uid-1"}, {"handle": "uid-1", "addresses": addresses}):
        _, said = await world.post("/v1/ipam/release", **request)
        assert said == {"released": []}
    assert list(world.held.values()) == ["uid-1", "uid-1"]
    assert await world.detach() == [address.partition("/")[0] for address in addresses]
    world.check_nothing()


async def test_failed_attach_leaves_given_addresses_to_who_gave_them(world: AttachWorld) -> None:
    _, document = await world.post("/v1/ipam/allocate", handle="uid-1", ipv4=1)
    world.is_enforcing = False
    with pytest.raises(Refusal):
        await world.attach(given=document["addresses"], ipv4=0, deadline_s=0.05)
    assert list(world.held.values()) == ["uid-1"]


async def test_given_address_that_is_free_is_a_conflict(world: AttachWorld) -> None:
    _, document = await world.post("/v1/ipam/allocate", handle="uid-1", ipv4=1)
    await world.post("/v1/ipam/release", handle="uid-1")
    with pytest.raises(Refusal, match="is free in block") as refused:
        await world.attach(given=document["addresses"], ipv4=0)
    assert refused.value.code is Code.CONFLICT
    world.check_nothing()


async def test_detach_takes_the_endpoint_with_its_address_though_the_agent_has_not_heard_of_it(
    world: AttachWorld,
) -> None:
    await world.attach()
    world.store.observe = lambda: None
    for one in list(world.index):  # as when the agent that wrote it died, and its write arrived late
        world.index.on_record(one.key, None, 0)
    await world.detach()
    world.check_nothing()


async def test_given_address_of_another_endpoint_is_a_conflict(world: AttachWorld) -> None:
    answer = await world.attach("c1")
    with pytest.raises(Refusal, match="is the address of endpoint default/h1-cni-c1-eth0"):
        await world.attach("c2", given=answer["addresses"], ipv4=0, netns="/run/netns/b")
    world.check_whole()


async def test_given_address_that_another_container_was_attached_with_is_a_conflict(world: AttachWorld) -> None:
    _, document = await world.post("/v1/ipam/allocate", handle="uid-1", ipv4=1, attributes={"felix.use": "pending"})
    asked: dict[str, object] = {"given": document["addresses"], "ipv4": 0}
    answers = await asyncio.gather(
        world.attach("c1", **asked), world.attach("c2", netns="/run/netns/b", **asked), return_exceptions=True
    )
    assert [getattr(one, "code", None) for one in answers] == [None, Code.CONFLICT]
    with pytest.raises(Refusal, match="is the address of endpoint default/h1-cni-c1-eth0"):
        await world.attach("c3", netns="/run/netns/c", **asked)
    world.check_whole("c1")


async def test_given_address_that_its_former_container_has_lost_is_taken(world: AttachWorld) -> None:
    _, document = await world.post("/v1/ipam/allocate", handle="uid-1", ipv4=1, attributes={"felix.use": "pending"})
    asked: dict[str, object] = {"given": document["addresses"], "ipv4": 0}
    await world.attach("c1", **asked)
    await Allocator(world.store).release_handle("uid-1")  # as an operator does with `felix ipam release`
    await world.post("/v1/ipam/allocate", handle="uid-2", addresses=document["addresses"])
    await world.attach("c2", netns="/run/netns/b", **asked)
    assert await world.detach("c1") == []
    world.check_whole("c2")


async def test_given_address_of_another_host_is_a_conflict(world: AttachWorld) -> None:
    (address,) = await Allocator(world.store).give(Request("h2", "uid-1", 1))
    with pytest.raises(Refusal, match="was given to host h2"):
        await world.attach(given=[address.address], ipv4=0)
    assert await world.detach() == []
    assert list(world.held.values()) == ["uid-1"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"container": "a.eth1"}, {"container": "a", "interface": "eth1"}),
        ({"container": "Web"}, {"container": "web"}),
        ({"network": "net1.a", "container": "b"}, {"network": "net1", "container": "a.b"}),
    ],
)
async def test_containers_whose_names_make_one_handle_keep_what_is_theirs(
    world: AttachWorld, first: dict[str, str], second: dict[str, str]
) -> None:
    await world.attach(**first)
    answer = await world.attach(netns="/run/netns/b", **second)
    assert len(set(world.held.values())) == 1
    kept = [str(one).partition("/")[0] for one in as_list(answer["addresses"])]
    for _ in range(2):
        await world.detach(**first)
        assert list(world.held) == kept
        assert len(world.endpoints) == len(world.kernel.spec_by_end) == 1
    check_laws(world.values)
    assert await world.detach(**second) == kept
    world.check_nothing()


async def test_same_container_of_two_orchestrators_is_two(world: AttachWorld) -> None:
    await world.attach()
    await world.attach(orchestrator="mesos", netns="/run/netns/b")
    assert len(world.kernel.spec_by_end) == 2
    await world.detach()
    await world.detach()
    assert [one.who.orchestrator for one in world.index] == ["mesos"]
    assert len(world.kernel.spec_by_end) == 1


async def test_interface_of_another_container_is_a_conflict_not_replaced(world: AttachWorld) -> None:
    world.service.place = Place(NODE, "a-prefix-of-15.")  # leaves no letter that could tell containers apart
    await world.attach("c1")
    with pytest.raises(Refusal, match="is the interface of endpoint default/h1-cni-c1-eth0"):
        await world.attach("c2", netns="/run/netns/b")
    await world.detach("c2")
    world.check_whole("c1")


async def test_gc_keeps_what_was_attached_a_moment_ago(world: AttachWorld) -> None:
    world.store.observe = lambda: None
    world.is_enforcing = False
    attaching = asyncio.create_task(world.attach(deadline_s=5.0))
    await until(lambda: world.kernel.made == 1)
    _, document = await world.post("/v1/gc", network="net1", valid=[])
    assert document["released"] == []
    world.is_enforcing = True
    world.tell_agent()
    await attaching
    world.check_whole()


@pytest.mark.parametrize("route", ["/v1/detach", "/v1/gc"])
async def test_network_that_none_can_be_called_is_refused(world: AttachWorld, route: str) -> None:
    container = {"container": "c1"} if route == "/v1/detach" else {}
    status, document = await world.post(route, network="a/b", **container)
    assert (status, document["code"]) == (400, "invalid")


async def test_detach_of_another_network_leaves_the_container(world: AttachWorld) -> None:
    await world.attach()
    assert await world.detach(network="net2") == []
    world.check_whole()
    assert await world.detach(network="") != []
    world.check_nothing()


async def test_detach_without_release_keeps_addresses(world: AttachWorld) -> None:
    await world.attach()
    assert await world.detach(release=False) == []
    assert world.endpoints == []
    assert list(world.held.values()) == ["net1.c1"]
    assert await world.detach() != []
    world.check_nothing()


@pytest.mark.parametrize("step", range(1, 6))
async def test_detach_with_one_call_lost_completes(world: AttachWorld, step: int) -> None:
    await world.attach(ipv6=1)
    first = world.store.calls
    world.store.lost = lambda call: "unanswered" if call - first == step else ""
    await world.detach()
    world.check_nothing()


async def test_detach_with_etcd_away_is_refused_and_works_later(world: AttachWorld) -> None:
    await world.attach()
    world.store.lost = lambda _: "unsent"
    with pytest.raises(Refusal, match="was not detached within"):
        await world.detach(deadline_s=0.05)
    world.store.lost = lambda _: ""
    await world.detach()
    world.check_nothing()


async def test_attach_takes_over_what_a_failed_one_owes(world: AttachWorld) -> None:
    world.is_enforcing = False
    first = world.store.calls
    world.store.lost = lambda call: "unsent" if call - first > 3 else ""
    with pytest.raises(Refusal):
        await world.attach(deadline_s=0.05)
    assert len(world.service.debts) == 1
    world.store.lost = lambda _: ""
    world.is_enforcing = True
    world.tell_agent()
    await world.attach()
    await settle_debts(world)
    world.check_whole()


async def test_check_names_what_differs(world: AttachWorld) -> None:
    body = {"network": "net1", "container": "c1", "netns": "/run/netns/a"}
    status, document = await world.post("/v1/check", **body)
    assert (status, document["code"]) == (404, "not-found")
    answer = await world.attach()
    assert await world.post("/v1/check", **body, addresses=answer["addresses"]) == (200, {"differences": []})
    world.kernel.spec_by_end.clear()
    status, document = await world.post("/v1/check", **body, addresses=["10.0.0.99"])
    assert (status, document["code"]) == (409, "differs")
    assert document["differences"] == [
        "it does not have 10.0.0.99",
        "it is not there",
        "the kernel does not enforce it yet",
    ]


async def test_gc_detaches_what_is_not_named_and_frees_addresses_without_endpoint(world: AttachWorld) -> None:
    for name, path in (("c1", "a"), ("c2", "b")):
        await world.attach(name, netns=f"/run/netns/{path}")
    await world.attach("c3", netns="/run/netns/c", network="net10")
    for handle, network in (("net1.c4", "net1"), ("net1.c1", "net1"), ("net10.c9", "net10")):
        attributes = {"felix.use": "ipam-only", "felix.network": network}
        await world.post("/v1/ipam/allocate", handle=handle, ipv4=1, attributes=attributes)
    status, document = await world.post("/v1/gc", network="net1", valid=[{"container": "c1"}])
    assert status == 200
    assert document["detached"] == ["c2/eth0"]
    assert len(str(document["released"]).split(",")) == 2
    assert document["failures"] == []
    assert sorted(world.held.values()) == ["net1.c1", "net1.c1", "net10.c3", "net10.c9"]


async def test_gc_goes_on_after_a_failure_and_names_it(world: AttachWorld) -> None:
    await world.attach("c1")
    world.kernel.failures["remove"] = KernelRefused("busy")
    _, document = await world.post("/v1/gc", network="net1", valid=[])
    assert document["failures"] == ["c1/eth0: busy"]
    world.check_whole()


async def test_sweep_removes_what_has_been_without_interface_for_the_whole_grace(world: AttachWorld) -> None:
    cleaner = world.parts.cleaner
    cleaner.grace_s = 900.0
    await world.attach("c1")
    await world.attach("c2", netns="/run/netns/b")
    assert await cleaner.sweep(0.0) == []
    gone = next(one for one in world.index if one.who.container == "c1")
    del world.kernel.spec_by_end[gone.host_interface]
    assert await cleaner.sweep(10.0) == []
    assert await cleaner.sweep(909.0) == []
    assert await cleaner.sweep(910.0) == ["c1/eth0"]
    world.check_whole("c2")


async def test_sweep_forgets_absence_that_ended(world: AttachWorld) -> None:
    cleaner = world.parts.cleaner
    cleaner.grace_s = 900.0
    await world.attach()
    kept = dict(world.kernel.spec_by_end)
    world.kernel.spec_by_end.clear()
    await cleaner.sweep(0.0)
    world.kernel.spec_by_end.update(kept)
    await cleaner.sweep(500.0)
    world.kernel.spec_by_end.clear()
    assert await cleaner.sweep(950.0) == []
    cleaner.grace_s = 0.0
    assert await cleaner.sweep(99999.0) == []


async def test_profiles_are_made_once_and_edits_of_them_stay(world: AttachWorld) -> None:
    await world.attach(groups=["star-1", "public"], profiles=["own"])
    assert world.profiles_of("h1-cni-c1-eth0") == ["default_h1", "public", "star-1", "own"]
    assert world.profile("default_h1")["ingress"] == [
        {"action": "Allow", "source": {"nets": ["192.0.2.1/32", "fd01::1/128"]}}
    ]
    path, edited = resource("Profile", "star-1", {"egress": []})
    world.store.put(path, edited)
    await world.detach()
    await world.attach(groups=["star-1"])
    assert world.values[path] == edited


async def test_profile_that_another_agent_makes_meanwhile_is_left_as_it_is(world: AttachWorld) -> None:
    path, theirs = resource("Profile", "net1", {"egress": [{"action": "Deny"}]})
    first = world.store.calls

    def interfere() -> None:
        if world.store.calls - first == 4:  # the transaction that gives the address
            world.store.put(path, theirs)

    world.store.before_txn = interfere
    await world.attach()
    assert world.values[path] == theirs
    world.check_whole()


async def test_fenced_host_attaches_nothing(world: AttachWorld) -> None:
    first = world.store.calls

    def fence() -> None:
        if world.store.calls - first == 4:
            world.store.put(format_fence_key("h1"), b"{}")

    world.store.before_txn = fence
    with pytest.raises(Refusal, match="given up as lost") as refused:
        await world.attach()
    assert refused.value.code is Code.UNAVAILABLE
    world.check_nothing()


async def test_release_by_address_and_attributes_leaves_what_others_hold(world: AttachWorld) -> None:
    await world.post("/v1/ipam/allocate", handle="u1", addresses=["10.0.0.1"], attributes={"orchestrator": "mesos"})
    await world.post("/v1/ipam/allocate", handle="u2", addresses=["10.0.0.2"], attributes={"orchestrator": "cni"})
    status, document = await world.post(
        "/v1/ipam/release", addresses=["10.0.0.1", "10.0.0.2", "10.0.0.3"], attributes={"orchestrator": "mesos"}
    )
    assert (status, document) == (200, {"released": ["10.0.0.1"]})
    assert await world.post("/v1/ipam/find", handle="u2") == (200, {"addresses": ["10.0.0.2/32"]})
    assert await world.post("/v1/ipam/release", handle="u2") == (200, {"released": ["10.0.0.2"]})
    world.check_nothing()


@pytest.mark.parametrize("how", ["unsent", "unanswered"])
@pytest.mark.parametrize("step", range(1, 6))
async def test_allocation_that_got_no_answer_is_given_back(world: AttachWorld, step: int, how: str) -> None:
    await world.post("/v1/ipam/allocate", handle="u1", ipv4=1)
    before = dict(world.held)
    first = world.store.calls
    world.store.lost = lambda call: how if call - first == step else ""
    status, _ = await world.post("/v1/ipam/allocate", handle="u1", ipv4=1, ipv6=1)
    world.store.lost = lambda _: ""
    await settle_debts(world)
    assert (len(world.held) == 3) if status == 200 else (world.held == before)


@pytest.mark.parametrize("how", ["unanswered", "late"])
@pytest.mark.parametrize("step", range(1, 6))
async def test_allocation_that_is_asked_again_keeps_what_it_was_told(world: AttachWorld, step: int, how: str) -> None:
    first = world.store.calls
    world.store.lost = lambda call: how if call - first == step else ""
    statuses = []
    for _ in range(2):
        status, document = await world.post("/v1/ipam/allocate", handle="u1", ipv4=1)
        statuses.append(status)
        if status == 200:
            break
    await world.store.deliver_late()
    await settle_debts(world)
    assert statuses in ([200], [503, 200])
    assert [f"{one}/32" for one in world.held] == document["addresses"]
    check_laws(world.values)


async def test_release_waits_for_an_allocation_under_way(world: AttachWorld) -> None:
    giving = asyncio.create_task(world.post("/v1/ipam/allocate", handle="u1", ipv4=1))
    await until(lambda: world.store.calls > 0)
    await world.post("/v1/ipam/release", handle="u1")
    await giving
    world.check_nothing()


async def test_close_waits_for_nothing_and_answers_those_who_wait(world: AttachWorld) -> None:
    world.is_enforcing = False
    waiting = asyncio.create_task(world.attach())
    await until(lambda: world.kernel.made)
    await world.service.close()
    with pytest.raises(Refusal, match="the agent is ending") as refused:
        await waiting
    assert refused.value.code is Code.UNAVAILABLE
    world.check_whole()  # it is for the next agent to complete
    with pytest.raises(Refusal, match="the agent is ending"):
        await world.attach()


async def test_earlier_life_with_the_same_address_does_not_count_as_enforced(world: AttachWorld) -> None:
    world.store.put(*pool("p4", "10.0.0.0/32", blockSize=32))
    await world.attach()
    (former,) = world.index
    stale = world.look(former.key)
    world.parts.enforcement._look = lambda _: stale  # the agent is slow to see that the endpoint goes and comes
    waiting = asyncio.create_task(world.attach(netns="/run/netns/b"))
    await until(lambda: world.kernel.made == 2)
    await asyncio.sleep(0)
    assert not waiting.done()
    world.parts.enforcement._look = world.look
    world.tell_agent()
    await waiting
    world.check_whole()


async def test_write_that_arrives_after_it_was_undone_changes_nothing(world: AttachWorld) -> None:
    await world.attach("c2", netns="/run/netns/b")  # so that there is a block
    first = world.store.calls
    world.store.lost = lambda call: "" if call - first < 4 else "late" if call - first == 4 else "unsent"
    with pytest.raises(Refusal):
        await world.attach("c1", deadline_s=0.05)
    assert len(world.store.late) == 1
    world.store.lost = lambda _: ""
    await settle_debts(world)
    await world.store.deliver_late()
    world.check_whole("c2")
