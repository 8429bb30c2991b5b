"""Changes of structure as one nf_tables transaction of our own: tables, chains, rules and declarations. Pure.

What libnftables does with the same text, without its reading of everything that is there before.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from felix.dataplane.netlink.message import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, attribute, batch, message, nested
from felix.dataplane.netlink.message import nfnetlink_header as header
from felix.dataplane.nft.base import declare
from felix.dataplane.nft.elements import KEY_BYTES
from felix.dataplane.nft.encode import EncodedRule, SetLookup, encode_rule
from felix.dataplane.nft.expressions import look_up, name, number, verdict_data
from felix.dataplane.nft.fields import HOST_ORDER, NETWORK_ORDER, OPEN_END, declared_userdata
from felix.dataplane.nft.literals import AnonymousSet, NotEncodable, SetElement
from felix.dataplane.nft.objects import pack_counter
from felix.dataplane.nft.types import TABLE, ElementShape, Lines, ObjectName, TableWrite

_SUBSYSTEM = 10
_INET = header(1)
_NEWTABLE, _NEWCHAIN, _DELCHAIN, _NEWRULE, _DELRULE, _NEWSET, _DELSET, _NEWSETELEM = (
    _SUBSYSTEM << 8 | kind for kind in (0, 3, 5, 6, 8, 9, 11, 12)
)
_TABLE_NAME = attribute(1, name(TABLE))
_HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3, "postrouting": 4}
_HOOK_LINE = re.compile(r"type (filter|nat) hook (\w+) priority (-?[0-9]{1,5}); policy accept;")
_POLICY_ACCEPT = 1
_ANONYMOUS, _CONSTANT, _INTERVAL, _MAP = 1, 2, 4, 8
_VERDICT_TYPE, _VERDICT_BYTES = 0xFFFFFF00, 16
_INTERVAL_END = 1
_ELEMENTS_BYTES = 60_000  # one attribute holds at most 65 531 bytes
_SHAPE_BY_DECLARATION = {(("map" if shape.is_map else "set"), declare(shape)): shape for shape in ElementShape}
_TYPES = {"ipv4_addr": 7, "ipv6_addr": 8, "ether_addr": 9, "inet_proto": 12, "inet_service": 13, "ifname": 41}
_TYPE_BITS = 6


class PackedWrite(NamedTuple):
    """One transaction. owners: for each message inside the frame the chain whose own it is, else nothing.

    declaring: positions inside the frame of what others refer to.
    """

    messages: list[bytes]
    owners: list[str]
    declaring: frozenset[int]


def name_sets(token: str) -> Iterator[str]:
    """Yields names for anonymous sets; nobody else may use that token.

    The kernel would find names, as it does for libnftables, by looking at all sets once more for each. Looking for a
    set it compares all names: these are short, and differ at their beginning.
    """
    return (f"__{count:x}-{token}" for count in itertools.count())


def pack_write(write: TableWrite, set_names: Iterator[str]) -> PackedWrite | None:
    """Returns the messages after which `write` has taken effect; None if it has words that are not encoded here.

    set_names: for anonymous sets, each never used before in the table.
    """
    try:
        return _pack(write, set_names)
    except (NotEncodable, ValueError):  # what is too long for an attribute is a ValueError
        return None


def _pack(write: TableWrite, set_names: Iterator[str]) -> PackedWrite:
    if write.rebuilds:
        raise NotEncodable("a whole table")
    owned: list[tuple[str, bytes]] = []
    owned.append(("", _message(_NEWTABLE, NLM_F_CREATE, attribute(2, number(0)))))
    ids = itertools.count(1)
    owned += (("", _pack_declared(object_, lines, next(ids))) for object_, lines in write.objects)
    hooks = {chain: lines[0] for chain, lines in write.chains if lines and lines[0].startswith("type ")}
    owned += ((chain, _pack_chain(chain, hooks.get(chain, ""))) for chain, _ in write.chains)
    declaring = frozenset(range(len(owned)))
    owned += ((chain, _flush(chain)) for chain, _ in write.chains)
    for chain, lines in write.chains:
        for line in lines[1:] if chain in hooks else lines:
            owned += ((chain, one) for one in _pack_rule(chain, encode_rule(line), zip(ids, set_names, strict=False)))
    owned += (("", _flush(chain)) for chain in write.removed_chains)
    owned += (("", _pack_removed(object_)) for object_ in write.removed_objects)
    owned += (("", _message(_DELCHAIN, 0, attribute(3, name(chain)))) for chain in write.removed_chains)
    return PackedWrite(batch(_SUBSYSTEM, [one for _, one in owned]), [owner for owner, _ in owned], declaring)


def find_culprits(packed: PackedWrite, refused: Mapping[int, str]) -> dict[str, str]:
    """Returns chains with why they were refused; none if others than chains were.

    refused: reasons by position of the message inside the frame. A chain that could not be made is a reason for whoever
    leads to it to be refused as well: then only it is meant.
    """
    found = [position for position in refused if position in packed.declaring] or list(refused)
    reason_by_chain: dict[str, str] = {}
    for position in found:
        reason_by_chain.setdefault(packed.owners[position], refused[position])
    return {} if "" in reason_by_chain else reason_by_chain


def _message(type_: int, flags: int, *attributes: bytes) -> bytes:
    return message(type_, flags, b"".join((_INET, _TABLE_NAME, *attributes)))


# --- Chains and rules ---


def _pack_chain(chain: str, hook: str) -> bytes:
    if not hook:
        return _message(_NEWCHAIN, NLM_F_CREATE, attribute(3, name(chain)))
    found = _HOOK_LINE.fullmatch(hook)
    if found is None or found[2] not in _HOOKS:
        raise NotEncodable(hook)
    place = nested(4, attribute(1, number(_HOOKS[found[2]])), attribute(2, struct.pack(">i", int(found[3]))))
    rest = attribute(5, number(_POLICY_ACCEPT)), attribute(7, name(found[1]))
    return _message(_NEWCHAIN, NLM_F_CREATE, attribute(3, name(chain)), place, *rest)


def _flush(chain: str) -> bytes:
    return _message(_DELRULE, 0, attribute(2, name(chain)))


def _pack_rule(chain: str, rule: EncodedRule, sets: Iterator[tuple[int, str]]) -> Iterator[bytes]:
    """Yields the sets that belong to the rule, and the rule."""
    expressions = []
    for one in rule.expressions:
        if isinstance(one, bytes):
            expressions.append(one)
            continue
        set_id, set_name = next(sets)
        yield from _pack_anonymous(one.set, set_name, set_id)
        expressions.append(_look_up(one, set_name, set_id))
    comment = (attribute(7, rule.userdata),) if rule.userdata else ()
    yield _message(
        _NEWRULE, NLM_F_CREATE | NLM_F_APPEND, attribute(2, name(chain)), nested(4, *expressions), *comment
    )  # fmt: skip


def _look_up(one: SetLookup, set_name: str, set_id: int) -> bytes:
    return look_up(set_name, is_inverted=one.is_inverted, is_map=one.set.is_map, set_id=set_id)


# --- Sets ---


def _pack_anonymous(made: AnonymousSet, set_name: str, set_id: int) -> Iterator[bytes]:
    flags = _ANONYMOUS | _CONSTANT | (_INTERVAL if made.is_interval else 0) | (_MAP if made.is_map else 0)
    parts = [attribute(2, name(set_name)), attribute(3, number(flags)), attribute(4, number(made.type))]
    parts += [attribute(5, number(made.key_bytes))]
    if made.is_map:
        parts += [attribute(6, number(_VERDICT_TYPE)), attribute(7, number(_VERDICT_BYTES))]
    parts += [nested(9, attribute(1, number(made.size))), attribute(10, number(set_id)), attribute(13, made.userdata)]
    yield _message(_NEWSET, NLM_F_CREATE | NLM_F_EXCL, *parts)
    elements: list[bytes] = []
    size_bytes = 0
    for element in made.elements:
        packed = _pack_element(element)
        if elements and size_bytes + len(packed) > _ELEMENTS_BYTES:
            yield _pack_elements(set_name, set_id, elements)
            elements, size_bytes = [], 0
        elements.append(packed)
        size_bytes += len(packed)
    yield _pack_elements(set_name, set_id, elements)


def _pack_elements(set_name: str, set_id: int, elements: list[bytes]) -> bytes:
    whose = attribute(2, name(set_name)), attribute(4, number(set_id))
    return _message(_NEWSETELEM, NLM_F_CREATE, *whose, nested(3, *elements))


def _pack_element(element: SetElement) -> bytes:
    parts = [nested(1, attribute(1, element.key))]
    if element.verdict is not None:
        parts.append(verdict_data(2, element.verdict))
    if element.is_end:
        parts.append(attribute(3, number(_INTERVAL_END)))
    if element.is_open:
        parts.append(attribute(6, OPEN_END))
    return nested(1, *parts)


def _pack_declared(object_: ObjectName, lines: Lines, set_id: int) -> bytes:
    if object_.kind == "counter" and not lines:
        return pack_counter(object_.name)
    shape = _SHAPE_BY_DECLARATION.get((object_.kind, lines))
    if shape is None:
        raise NotEncodable(object_.kind)
    key, _, value = shape.value.removesuffix(" interval").partition(" : ")
    types = [_TYPES[one] for one in key.split(" . ")]
    type_ = 0
    for one in types:
        type_ = type_ << _TYPE_BITS | one
    order = HOST_ORDER if key == "ifname" else NETWORK_ORDER
    flags = (_INTERVAL if shape.is_range else 0) | (_MAP if shape.is_map else 0)
    parts = [attribute(2, name(object_.name)), attribute(3, number(flags)), attribute(4, number(type_))]
    parts.append(attribute(5, number(KEY_BYTES[shape])))
    data_order = None
    if value == "verdict":
        data_order = 0
        parts += [attribute(6, number(_VERDICT_TYPE)), attribute(7, number(_VERDICT_BYTES))]
    elif value:
        data_order = NETWORK_ORDER
        parts += [attribute(6, number(_TYPES[value])), attribute(7, number(KEY_BYTES[shape]))]
    userdata = declared_userdata(order, data_order, is_concatenation=len(types) > 1)
    return _message(_NEWSET, NLM_F_CREATE, *parts, attribute(10, number(set_id)), attribute(13, userdata))


def _pack_removed(object_: ObjectName) -> bytes:
    if object_.kind not in ("set", "map"):
        raise NotEncodable(object_.kind)
    return _message(_DELSET, 0, attribute(2, name(object_.name)))
