"""Packing and parsing of netlink messages."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.dataplane.netlink.message import (
    NETLINK_NETFILTER,
    NFNL_MSG_BATCH_BEGIN,
    NFNL_MSG_BATCH_END,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    Message,
    attribute,
    batch,
    message,
    nested,
    parse_answer,
    parse_attribute_list,
    parse_attributes,
    parse_messages,
)

PAYLOADS = st.binary(max_size=40)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), PAYLOADS), max_size=8))
def test_attributes_packed_and_parsed_are_what_they_were(pairs: list[tuple[int, bytes]]) -> None:
    buffer = b"".join(attribute(type_, payload) for type_, payload in pairs)
    assert len(buffer) % 4 == 0
    assert list(parse_attribute_list(buffer)) == pairs
    assert parse_attributes(buffer) == dict(pairs)


@given(st.lists(st.tuples(st.integers(16, 0xFFFF), st.integers(0, 0xFFFF), PAYLOADS), max_size=8))
def test_messages_packed_and_parsed_are_what_they_were(triples: list[tuple[int, int, bytes]]) -> None:
    buffer = b"".join(message(type_, flags, body, 7) for type_, flags, body in triples)
    expected = [Message(type_, flags | NLM_F_REQUEST, 7, 0, body) for type_, flags, body in triples]
    assert list(parse_messages(buffer)) == expected


@given(st.binary(max_size=200))
def test_garbage_parsed_raises_nothing(buffer: bytes) -> None:
    for one in parse_messages(buffer):
        parse_attributes(one.body)
        parse_answer(one)
    parse_attributes(buffer)
    assert len(list(parse_attribute_list(buffer))) <= len(buffer) // 4


def test_nested_attribute_contains_its_attributes_and_says_so() -> None:
    packed = nested(3, attribute(1, b"ab"), attribute(1, b"cd"))
    (_, type_) = struct.unpack_from("=HH", packed)
    assert type_ & 0x8000
    assert list(parse_attribute_list(parse_attributes(packed)[3])) == [(1, b"ab"), (1, b"cd")]


def test_attribute_larger_than_its_length_field_is_refused() -> None:
    assert len(attribute(1, bytes(65531))) == 65536
    with pytest.raises(ValueError, match="65535"):
        attribute(1, bytes(65532))


def test_batch_frame_asks_for_no_answer() -> None:
    first, _, last = [next(parse_messages(one)) for one in batch(10, [message(2569, NLM_F_ACK, b"")])]
    assert (first.type, last.type) == (NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END)
    assert not (first.flags | last.flags) & NLM_F_ACK
    assert first.body == last.body == b"\0\0\0\x0a"
    assert NETLINK_NETFILTER == 12


def test_answer_with_text_after_a_capped_header_gives_errno_and_text() -> None:
    body = struct.pack("=i", -22) + struct.pack("=IHHII", 99, 24, 5, 3, 0) + attribute(1, b"Invalid gateway\0")
    refusal = parse_answer(Message(NLMSG_ERROR, 0x300, 3, 0, body))
    assert refusal == 22
    assert refusal is not None
    assert refusal.text == "Invalid gateway"


def test_answer_with_text_after_the_whole_request_gives_errno_and_text() -> None:
    request = message(24, 0, b"12345", 3)
    body = struct.pack("=i", -17) + request + attribute(1, b"File exists\0")
    refusal = parse_answer(Message(NLMSG_ERROR, 0x200, 3, 0, body))
    assert refusal is not None
    assert (int(refusal), refusal.text) == (17, "File exists")


def test_answer_that_says_success_is_none() -> None:
    assert parse_answer(Message(NLMSG_ERROR, 0, 3, 0, bytes(20))) is None
    assert parse_answer(Message(NLMSG_DONE, 0, 3, 0, bytes(4))) is None
    assert parse_answer(Message(NLMSG_DONE, 0, 3, 0, b"")) is None
