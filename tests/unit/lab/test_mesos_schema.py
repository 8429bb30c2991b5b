"""What the simulated Mesos says, read by Mesos' own published schemas and by the readers that Felix has for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from google.protobuf import descriptor_pool, json_format, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from felix.lab.mesos.types import (
    ContainerId,
    ContainerStatus,
    IpAddress,
    Label,
    Labels,
    NetworkInfo,
    TaskStatus,
    address_record,
)
from felix.plugins.mesos.network_info import Demand, count_demand, parse_network_info, read_status_addresses

SCHEMAS = Path(__file__).parents[2] / "support" / "mesos_schema"
GIVEN = NetworkInfo((address_record("10.1.0.7"), address_record("fd00::7/128")))
ASKED = NetworkInfo((IpAddress(ip_address="10.1.0.7"), IpAddress(protocol="IPv6")), ("a",), Labels((Label("k", "v"),)))


def to_json(value: msgspec.Struct) -> Any:
    return json.loads(msgspec.json.encode(value))


def check_schema(version: str, message: str, document: dict[str, Any]) -> None:
    """Raises when Mesos of that version does not know a field, or its type."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse((SCHEMAS / f"{version}.textproto").read_text(), FileDescriptorProto()))
    built = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mesos.{message}"))()
    json_format.ParseDict(document, built)
    assert built.IsInitialized()


@pytest.mark.parametrize("version", ["0.28.2", "1.7.2"])
def test_network_info_is_what_mesos_knows(version: str) -> None:
    for info in (ASKED, GIVEN):
        check_schema(version, "NetworkInfo", to_json(info))


@pytest.mark.parametrize(
    ("version", "status"),
    [("0.28.2", ContainerStatus((GIVEN,))), ("1.7.2", ContainerStatus((GIVEN,), ContainerId("c")))],
)
def test_container_status_is_what_mesos_knows(version: str, status: ContainerStatus) -> None:
    check_schema(version, "ContainerStatus", to_json(status))


def test_network_info_asks_of_our_reader_what_it_asks_of_the_simulator() -> None:
    assert count_demand([parse_network_info(to_json(ASKED))]) == Demand(0, 1, ("10.1.0.7",))


def test_status_tells_our_reader_its_addresses() -> None:
    status = TaskStatus("t", "S0", "TASK_RUNNING", 1.0, container_status=ContainerStatus((GIVEN,)))
    assert read_status_addresses(to_json(status)) == ["10.1.0.7", "fd00::7"]
