"""NetworkInfo against the schema that Mesos itself published, as the packages mesos.interface carry it.

The packages want protobuf below 4 and cannot be installed beside Felix; their schemas can: tools/mesos_schema.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool, json_format, message_factory, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message
from hypothesis import given

from felix.plugins.mesos.network_info import (
    Form,
    IpAddress,
    Json,
    NetworkInfo,
    PortMapping,
    make_status,
    parse_network_info,
    read_status_addresses,
    render_network_info,
    render_status,
)
from tests.unit.plugins.mesos.test_network_info import INFOS

SCHEMAS = Path(__file__).resolve().parents[3] / "support" / "mesos_schema"
FULL = NetworkInfo(
    (IpAddress("IPv4", "10.1.0.7"), IpAddress("IPv6"), IpAddress()),
    ("a", "b"),
    {"k": "v", "empty": ""},
    "net1",
    (PortMapping(8080, 80, "tcp"), PortMapping(53, 53)),
)
LISTED = FULL._replace(name="", port_mappings=())
FLAT = LISTED._replace(ip_addresses=(IpAddress("IPv4", "10.1.0.7"),))


def _load(version: str, message: str) -> type[Message]:
    text = (SCHEMAS / f"{version}.textproto").read_text(encoding="utf-8")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(text, FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mesos.{message}"))


NETWORK_INFO = {version: _load(version, "NetworkInfo") for version in ("0.25.0", "0.28.2", "1.7.2")}
CONTAINER_STATUS = {version: _load(version, "ContainerStatus") for version in ("0.25.0", "0.28.2", "1.7.2")}


def _to_message(document: Json, schema: type[Message]) -> Message:
    """Returns what Mesos understands; an unknown field or a wrong type is an error."""
    message = schema()
    json_format.ParseDict(document, message)
    assert message.IsInitialized()
    return message


def _to_json(message: Message) -> Any:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@pytest.mark.parametrize(
    ("version", "form", "info"),
    [("0.25.0", Form.FLAT, FLAT), ("0.28.2", Form.LISTED, LISTED), ("1.7.2", Form.NAMED, FULL)],
)
def test_network_info_says_to_mesos_of_that_age_what_it_says_to_us(version: str, form: Form, info: NetworkInfo) -> None:
    message = _to_message(render_network_info(info, form), NETWORK_INFO[version])
    assert parse_network_info(_to_json(message), form=form) == info
    again = NETWORK_INFO[version].FromString(message.SerializeToString())
    assert again == message


@given(INFOS)
def test_any_network_info_survives_the_way_through_mesos_1_7(info: NetworkInfo) -> None:
    message = _to_message(render_network_info(info), NETWORK_INFO["1.7.2"])
    assert parse_network_info(_to_json(message)) == info


@pytest.mark.parametrize(("version", "form"), [("0.25.0", Form.FLAT), ("0.28.2", Form.LISTED), ("1.7.2", Form.NAMED)])
def test_status_is_one_that_mesos_of_that_age_takes(version: str, form: Form) -> None:
    status = render_status([make_status(["10.1.0.7"], LISTED)], form)["container_status"]
    assert isinstance(status, dict)
    message = _to_message(status, CONTAINER_STATUS[version])
    assert read_status_addresses({"container_status": _to_json(message)}) == ["10.1.0.7"]


def test_older_mesos_refuses_what_we_refuse_to_write_for_it() -> None:
    documents: dict[str, Json] = {"0.25.0": {"ip_addresses": []}, "0.28.2": {"name": "x"}, "1.7.2": {"ip_address": ""}}
    for version, document in documents.items():
        with pytest.raises(json_format.ParseError):
            _to_message(document, NETWORK_INFO[version])


def test_status_of_1_7_that_says_the_default_protocol_is_read() -> None:
    # since 1.4 the schema itself says that protocol is IPv4 when nobody says anything
    field = NETWORK_INFO["1.7.2"].DESCRIPTOR.nested_types_by_name["IPAddress"].fields_by_name["protocol"]
    assert field.has_default_value
    assert field.enum_type is not None
    assert field.enum_type.values_by_number[field.default_value].name == "IPv4"
