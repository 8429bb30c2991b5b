"""Endpoints of attached containers in etcd: written and deleted together with their addresses. Shell."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from felix.attach.check import Wanted
from felix.attach.endpoint import (
    NETWORK_ATTRIBUTE,
    Attachment,
    EndpointIntent,
    find_attachment,
    name_of,
    render_document,
)
from felix.attach.index import AttachmentIndex
from felix.attach.names import DEFAULT_NAMESPACE, Attached, endpoint_key
from felix.attach.profiles import choose_profiles, make_profiles
from felix.attach.types import Code, Refusal
from felix.clock import Clock, wall_s
from felix.datastore.types import RangeOp
from felix.ipam.apply import Allocator
from felix.ipam.block import ENDPOINT, IPAM_ONLY, USE, Holder
from felix.ipam.draft import Draft
from felix.ipam.read import Store, list_blocks, read_blocks_around, read_handles, read_ranges
from felix.ipam.release import Release
from felix.ipam.types import Request
from felix.model.codec import decode, encode
from felix.model.keys import ResourceKey, format_fence_key, format_handle_key, format_key
from felix.model.net import Net, parse_address
from felix.model.records import Node


class Present(Exception):
    """The endpoint is stored already."""


@dataclass(slots=True)
class Known:
    """What etcd holds that a request stands on. endpoint: of ours. is_foreign: there is one, and it is not ours.

    missing: profiles to be written, by key. Everything that is not there has revision 0 in a guard.
    """

    endpoint: Attachment | None = None
    is_foreign: bool = False
    missing: dict[ResourceKey, dict[str, object]] = field(default_factory=dict)


class EndpointStore:
    """What one host's attachments are in etcd.

    index: what is attached. host_nets: what containers may talk with that may talk with their host only, besides the
    host itself. own_addresses: the host's, if its Node names none. Methods raise what the store and the allocator
    raise; after EtcdUnavailable nobody knows what became of a write.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        index: AttachmentIndex,
        host_nets: Sequence[Net] = (),
        now: Clock = wall_s,
    ) -> None:
        self.allocator = Allocator(store)
        self._store = store
        self._node = node
        self._index = index
        self.host_nets = tuple(host_nets)
        self.own_addresses: tuple[Net, ...] = ()
        self._now = now
        self._fence = format_fence_key(node)

    async def look(self, wanted: Wanted) -> Known:
        """Returns what is there of the request, in one round trip. Raises Refusal while the host is given up."""
        request = wanted.request
        key = endpoint_key(self._node, wanted.who, request.namespace)
        profiles = make_profiles(request, self._node, self.host_nets, self._now())
        node_key = ResourceKey("Node", "", self._node)
        paths = [self._fence, *(format_key(one) for one in (key, node_key, *profiles))]
        fence, *pages = await read_ranges(self._store, [RangeOp(path) for path in paths])
        if fence:
            raise Refusal(Code.UNAVAILABLE, f"{self._node} was given up as lost; it has to clean up first")
        known = Known()
        if pages[0]:
            pair = pages[0][0]
            known.endpoint = find_attachment(key, decode(key, pair.value).record, self._node, pair.mod_revision)
            known.is_foreign = known.endpoint is None
        absent = [one for one, page in zip(profiles, pages[2:], strict=True) if not page]
        if absent:
            record = decode(node_key, pages[1][0].value).record if pages[1] else None
            nets = dict.fromkeys((*(_addresses_of(record) or self.own_addresses), *self.host_nets))
            made = make_profiles(request, self._node, tuple(nets), self._now())
            known.missing = {one: made[one] for one in absent}
        return known

    async def write(self, wanted: Wanted, known: Known, netns: int, tried: set[Net]) -> Attachment:
        """The container has its addresses, its endpoint and its profiles, all in one transaction; returns the endpoint.

        tried: gets the addresses with which that was tried, for whoever has to make sure that it will not happen.
        Raises Present when there is an endpoint meanwhile; Refusal when a given address is another endpoint's.
        """
        request = wanted.request
        given = await self._find_handles(wanted.given, name_of(endpoint_key(self._node, wanted.who, request.namespace)))
        intent = EndpointIntent(
            node=self._node,
            request=request,
            who=wanted.who,
            handle=wanted.handle,
            interface=wanted.interface,
            mac=wanted.mac,
            profiles=choose_profiles(request, self._node),
            netns=netns,
            now=self._now(),
            given=given,
        )
        render_document(intent, ())  # refuses what cannot be, before anything is read or given
        attempts = 0

        async def beside(chosen: Sequence[Net]) -> Draft:
            nonlocal known, attempts
            attempts += 1
            if attempts > 1:
                known = await self.look(wanted)
            if known.endpoint is not None or known.is_foreign:
                raise Present
            tried.update(chosen)
            draft = await self._plan_taking_up(wanted, given, has_more=bool(chosen))
            draft.guard(self._fence, 0)
            for key, document in known.missing.items():
                draft.put(format_key(key), encode(document), 0)
            draft.put(format_key(intent.key), render_document(intent, tuple(chosen)), 0)
            return draft

        attributes = {ENDPOINT: name_of(intent.key), NETWORK_ATTRIBUTE: request.network}
        asked = Request(self._node, wanted.handle, request.ipv4, request.ipv6, attributes, request.pools)
        chosen = await self.allocator.give(asked, wanted.addresses, beside)
        value = render_document(intent, tuple(chosen))
        found = find_attachment(intent.key, decode(intent.key, value).record, self._node)
        assert found is not None
        return found

    async def erase(self, one: Attachment, *, release: bool, with_given: bool) -> list[Net]:
        """The endpoint is gone, and in the same transaction its addresses are given back; returns those.

        release: whether addresses are given back. with_given: also those that somebody else had allocated.
        """
        draft = Draft()
        draft.drop(format_key(one.key))
        releases = one.releases if with_given else one.own_releases
        return await self.allocator.take_back(releases if release else [], draft)

    async def erase_key(self, key: ResourceKey, unsure: Collection[Net] = ()) -> list[Net]:
        """Whatever an attempt to attach may have written is gone; harmless when it wrote nothing.

        unsure: addresses with which it may still be on its way; it will not arrive any more.
        """
        if unsure:
            await self.allocator.touch(list(unsure))
        (page,) = await read_ranges(self._store, [RangeOp(format_key(key))])
        found = find_attachment(key, decode(key, page[0].value).record, self._node) if page else None
        return await self.erase(found, release=True, with_given=False) if found is not None else []

    async def release_handle(self, name: str, who: Attached) -> list[Net]:
        """The handle holds nothing that was given to `who` on this host; returns what it held.

        An endpoint with what is released goes in the same transaction: one of which nobody here knows, because it was
        on its way while the agent that wrote it died, must not keep an address that may be another's next.
        """

        def is_meant(holder: Holder) -> bool:
            if holder.node != self._node:
                return False
            if not holder.endpoint:
                return holder.attributes.get(USE) != IPAM_ONLY
            # another container's name may make the same handle
            return holder.endpoint.partition("/")[2] == endpoint_key(self._node, who, "").name

        def drop_endpoints(holders: Sequence[Holder]) -> Draft:
            draft = Draft()
            for namespace in {one.endpoint.partition("/")[0] or DEFAULT_NAMESPACE for one in holders}:
                draft.drop(format_key(endpoint_key(self._node, who, namespace)))
            return draft

        return await self.allocator.release_handle(name, is_meant, drop_endpoints)

    async def find_strays(self, network: str, valid_handles: frozenset[str], used: frozenset[Net]) -> list[Release]:
        """Returns addresses of this host that were given for a network, and that no valid handle and no endpoint has.

        Only what says for which network it was given, or was given by a plug-in of ours under a handle of that network.
        """
        found = []
        for net, stored in (await list_blocks(self._store)).items():
            block = stored.block
            if block is None:
                continue
            for ordinal, holder in block.held():
                handle = holder.handle or ""
                address = Net(net.version, net.value + ordinal, net.bits)
                if not handle or holder.node != self._node or handle in valid_handles or address in used:
                    continue
                if _is_of(holder.attributes, handle, network):
                    sequence = block.sequences.get(ordinal, 0)
                    found.append(Release(address, handle, sequence, holder.endpoint))
        # Read after the blocks: an endpoint is written with its addresses, and may not have been told of yet.
        present = await self._find_stored({one.endpoint for one in found if one.endpoint})
        return [one for one in found if one.endpoint not in present]

    async def _find_stored(self, names: Collection[str]) -> set[str]:
        """Returns those of the endpoints that there are."""
        paths = {
            name: format_key(ResourceKey("WorkloadEndpoint", *name.split("/", 1))) for name in names if "/" in name
        }
        pages = await read_ranges(self._store, [RangeOp(path) for path in paths.values()])
        return {name for name, page in zip(paths, pages, strict=True) if page}

    async def _plan_taking_up(self, wanted: Wanted, given: Mapping[Net, str], *, has_more: bool) -> Draft:
        """Returns that handles of given addresses are written as they are: a collector that has seen their addresses
        without endpoint for a while sees by the handle's revision that somebody took them up. has_more: the handle of
        the container is written anyway. Raises Refusal when one was given back meanwhile.
        """
        draft = Draft()
        names = {name for name in given.values() if name and not (has_more and name == wanted.handle)}
        if names:
            handles = await read_handles(self._store, sorted(names))
            endpoint = name_of(endpoint_key(self._node, wanted.who, wanted.request.namespace))
            if await self._find_handles(list(given), endpoint) != given:
                raise Refusal(Code.CONFLICT, "an address that was given to the container was given back meanwhile")
            for handle in handles.values():
                draft.guard(format_handle_key(handle.name), handle.revision)
                draft.set_handle(handle)
        return draft

    async def _find_handles(self, given: Sequence[Net], endpoint: str) -> dict[Net, str]:
        """Returns the handle of each address, empty when no block knows it. Raises Refusal when one is free."""
        handles = dict.fromkeys(given, "")
        blocks = await read_blocks_around(self._store, given) if given else {}
        for stored in blocks.values():
            block = stored.block
            for net in given:
                if block is None or not operator.contains(block.net, net):
                    continue
                holder = block.find_holder(net.value - block.net.value)
                if holder is None:
                    text = f"{net.address} is free in block {block.net}, so it may be another's next; allocate it first"
                    raise Refusal(Code.CONFLICT, text)
                if holder.endpoint not in ("", endpoint):
                    raise Refusal(Code.CONFLICT, f"{net.address} is the address of endpoint {holder.endpoint}")
                if holder.node not in ("", self._node):
                    raise Refusal(Code.CONFLICT, f"{net.address} was given to host {holder.node}, not to {self._node}")
                handles[net] = holder.handle or ""
        for net, handle in handles.items():
            for one in self._index.find_address(net):
                # By another handle it is what an earlier container has lost, which is only still to be detached.
                if name_of(one.key) != endpoint and one.note.handles.get(net.address) == handle:
                    raise Refusal(Code.CONFLICT, f"{net.address} is the address of endpoint {name_of(one.key)}")
        return handles


def _is_of(attributes: Mapping[str, str], handle: str, network: str) -> bool:
    named = attributes.get(NETWORK_ATTRIBUTE)
    if named is not None:
        return named == network
    return USE in attributes and handle.startswith(f"{network.lower()}.")


def _addresses_of(record: object) -> list[Net]:
    """Returns the addresses of a Node: of BGP, and all others that it names."""
    if not isinstance(record, Node):
        return []
    spec = record.spec
    texts = [spec.bgp.ipv4_address, spec.bgp.ipv6_address] if spec.bgp is not None else []
    texts += [one.address for one in spec.addresses]
    found = []
    for text in texts:
        with contextlib.suppress(ValueError):  # Calico keeps names of hosts there, too
            found.append(parse_address(text.partition("/")[0]))
    return found
