"""BGP inputs out of YAML, for tests of the BIRD family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml

from felix.calc.bgp import BgpInputs
from felix.model.bgp import BGPConfiguration, BGPFilter, BGPPeer
from felix.model.cluster import Node
from felix.model.net import parse_net
from felix.model.networks import IPPool

T = TypeVar("T", Node, BGPConfiguration, BGPPeer, BGPFilter, IPPool)
Json = Mapping[str, object]


class Case(msgspec.Struct):
    """One file of inputs: who we are, our blocks, and v3 resources."""

    hostname: str
    blocks: list[str]
    resources: list[dict[str, object]]


def read_inputs(path: Path) -> BgpInputs:
    """Returns the inputs that the file describes."""
    case = msgspec.convert(yaml.safe_load(path.read_text()), type=Case)
    return make_inputs(case.resources, hostname=case.hostname, blocks=case.blocks)


def make_inputs(resources: Iterable[Json], *, hostname: str = "h1", blocks: Iterable[str] = ()) -> BgpInputs:
    """Returns the inputs that the resources, in their stored form, make for this host."""
    documents = list(resources)
    return BgpInputs(
        hostname=hostname,
        nodes=_collect(documents, Node),
        configurations=_collect(documents, BGPConfiguration),
        peers=_collect(documents, BGPPeer),
        filters=_collect(documents, BGPFilter),
        pools=_collect(documents, IPPool),
        blocks=tuple(sorted(parse_net(block) for block in blocks)),
    )


def resource(kind: str, name: str, labels: Mapping[str, str] | None = None, **spec: object) -> Json:
    """Returns a resource in its stored form."""
    metadata = {"name": name, "labels": dict(labels or {})}
    return {"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec}


def node(number: int, labels: Mapping[str, str] | None = None, **bgp: object) -> Json:
    """Returns Node `h<number>` with an address of each family; `bgp` overrides."""
    addresses = {"ipv4Address": f"10.0.0.{number}/24", "ipv6Address": f"fd00:10::{number}/64"}
    return resource("Node", f"h{number}", labels, bgp={**addresses, **bgp})


def pools() -> list[Json]:
    """Returns one pool of each family."""
    return [
        resource("IPPool", "v4", cidr="192.168.0.0/16", blockSize=26),
        resource("IPPool", "v6", cidr="fd00:192:168::/64", blockSize=122),
    ]


def _collect(documents: Iterable[Json], kind: type[T]) -> dict[str, T]:
    records = (msgspec.convert(document, type=kind) for document in documents if document["kind"] == kind.__name__)
    return {record.metadata.name: record for record in records}
