"""Names, addresses and documents of a lab."""

from __future__ import annotations

import json

import pytest

from felix.errors import DataError
from felix.ipam.draft import StoredBlock
from felix.ipam.records import Handle
from felix.lab import documents, names
from felix.lab.documents import EndpointIntent
from felix.model.keys import AffinityKey, BlockKey, ResourceKey, parse_key
from felix.model.net import parse_net


def test_host_addresses_of_two_hosts_share_nothing() -> None:
    first, second = names.host_addresses(1), names.host_addresses(2)

    assert (first.name, first.ipv4, first.ipv6) == ("h1", "10.0.0.1", "fd00:10::1")
    assert (str(first.block_v4), str(second.block_v4)) == ("192.168.1.0/26", "192.168.2.0/26")
    assert (str(first.block_v6), str(second.block_v6)) == ("fd00:192:168::1:0/122", "fd00:192:168::2:0/122")


def test_hosts_that_are_apart_are_in_two_subnets() -> None:
    first, second, third = (names.host_addresses(number, is_apart=True) for number in (1, 2, 3))

    assert (first, third) == (names.host_addresses(1), names.host_addresses(3))
    assert (second.ipv4, second.ipv6, second.subnet) == ("10.0.1.2", "fd00:11::2", names.FAR)
    assert second.block_v4 == names.host_addresses(2).block_v4


@pytest.mark.parametrize("name", ["", "Demo", "a-b", "1a", "../x", "a" * 25])
def test_lab_name_that_would_blur_prefixes_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="lab name"):
        names.namespace_prefix(name)


def test_host_documents_parse_as_keys_the_agent_knows() -> None:
    keys = [parse_key(key) for key in documents.host_documents(names.host_addresses(1))]

    block_v4, block_v6 = parse_net("192.168.1.0/26"), parse_net("fd00:192:168::1:0/122")
    assert keys == [
        ResourceKey("Node", "", "h1"),
        AffinityKey("h1", block_v4),
        BlockKey(block_v4),
        AffinityKey("h1", block_v6),
        BlockKey(block_v6),
    ]


def test_endpoint_document_doubles_dashes_in_its_name() -> None:
    intent = EndpointIntent("my-web", "h1", "default", ("192.168.1.0", "fd00::1"), ["p"], {"role": "web"})

    document = documents.endpoint_document(intent)

    assert documents.key_of(document).endswith("/workloadendpoints/default/h1-cni-my--web-eth0")
    spec = document["spec"]
    assert isinstance(spec, dict)
    assert spec["ipNetworks"] == ["192.168.1.0/32", "fd00::1/128"]
    assert len(str(spec["interfaceName"])) == 15


def test_block_gives_each_address_once_and_counts_it_for_its_handle() -> None:
    host = names.host_addresses(1)
    value = json.dumps(documents.host_documents(host)["/calico/ipam/v2/assignment/ipv4/block/192.168.1.0-26"]).encode()
    stored = StoredBlock(host.block_v4, 7, value)

    first = documents.plan_take(stored, Handle("felix-lab.a"), "h1", "")
    assert first is not None
    draft, address = first
    assert address == "192.168.1.0"
    assert set(draft.revision_by_key.values()) == {7, 0}
    taken = StoredBlock(host.block_v4, 8, draft.value_by_key["/calico/ipam/v2/assignment/ipv4/block/192.168.1.0-26"])
    named = documents.plan_take(taken, Handle("felix-lab.b"), "h1", "192.168.1.5")
    assert named is not None
    assert named[1] == "192.168.1.5"
    assert documents.plan_take(taken, Handle("felix-lab.b"), "h1", "192.168.1.0") is None
