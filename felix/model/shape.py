"""Compares plain values (as JSON or YAML gives them) with the types of records, and says what does not fit, and where.

`msgspec` alone stops at the first thing that does not fit; a person who mends a manifest wants to know all of them.
"""

from __future__ import annotations

import difflib
import functools
import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import inspect

from felix.errors import Problem, shorten

Path = tuple[str | int, ...]
FLAW_LIMIT = 20

_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_]+")
_LIKE_ANOTHER_TYPE = re.compile(r"[-+0-9.]+|true|false|null|\s+")
_AS_NUMBER_KEYS = frozenset({"asNumber", "localASNumber"})
_AS_NUMBER = re.compile(r"[0-9]{1,10}")


class Flaw(NamedTuple):
    """One thing that is wrong with a value; `is_unenforced` says that it is right, but Felix cannot enforce it."""

    path: Path
    value: object
    reason: str
    is_unenforced: bool = False


def format_path(path: Path) -> str:
    """Returns a path as people write it: `spec.ingress[2].source.nets[0]`; empty for the whole."""
    text = ""
    for step in path:
        if isinstance(step, int) or not _SIMPLE_KEY.fullmatch(step):
            text += f"[{step if isinstance(step, int) else show(step)}]"
        else:
            text += f".{step}" if text else step
    return text


def show(value: object) -> str:
    """Returns a value as text for people: one line, printable, at most 100 characters."""
    text = value if isinstance(value, str) else "null" if value is None else repr(value)
    if isinstance(value, str) and _LIKE_ANOTHER_TYPE.fullmatch(value):
        text = f'"{value}"'
    return shorten(text if text.isprintable() else ascii(text))


def make_problems(subject: str, flaws: list[Flaw]) -> tuple[Problem, ...]:
    """Returns one problem per flaw; of very many the first, and one that says that there are more."""
    problems = [Problem(subject, format_path(flaw.path), show(flaw.value), flaw.reason) for flaw in flaws[:FLAW_LIMIT]]
    if len(flaws) > FLAW_LIMIT:
        problems.append(Problem(subject, "", "", f"has more problems than these {FLAW_LIMIT}"))
    return tuple(problems)


def collect(flaws: Iterator[Flaw]) -> list[Flaw]:
    """Returns the flaws as far as anybody wants to know them: whoever writes nonsense must not keep us busy."""
    return list(itertools.islice(flaws, FLAW_LIMIT + 1))


@functools.cache
def type_of(wanted: type) -> inspect.Type:
    """Returns a record's type in the form in which `find_shape_flaws` takes it."""
    return inspect.type_info(wanted)


def simplify(value: object) -> object:
    """Returns the value as Calico's tools understand it: null is as good as absent, AS numbers may be texts."""
    if isinstance(value, list):
        return [simplify(item) for item in value]
    if not isinstance(value, dict):
        return value
    result: dict[object, object] = {}
    for key, item in value.items():
        if item is None:
            continue
        if key in _AS_NUMBER_KEYS and isinstance(item, str) and _AS_NUMBER.fullmatch(item):
            result[key] = int(item)
        else:
            result[key] = simplify(item)
    return result


def find_shape_flaws(value: object, expected: inspect.Type, path: Path = (), *, is_strict: bool) -> Iterator[Flaw]:
    """Yields every place where `value` does not fit the type. is_strict: also where it has fields that records lack."""
    match expected:
        case inspect.Metadata(type=inner):
            yield from find_shape_flaws(value, inner, path, is_strict=is_strict)
        case inspect.UnionType():
            yield from _find_union_flaws(value, expected, path, is_strict=is_strict)
        case inspect.StructType() if isinstance(value, dict):
            yield from _find_struct_flaws(value, expected, path, is_strict=is_strict)
        case inspect.VarTupleType(item_type=item_type) if isinstance(value, list):
            if not (expected.min_length or 0) <= len(value) <= (expected.max_length or len(value)):
                yield Flaw(path, len(value), f"expected {describe(expected)}")
            for index, item in enumerate(value):
                yield from find_shape_flaws(item, item_type, (*path, index), is_strict=is_strict)
        case inspect.DictType(value_type=value_type) if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str):
                    yield from find_shape_flaws(item, value_type, (*path, key), is_strict=is_strict)
                else:
                    yield Flaw(path, key, "expected text as the name of a field; put it in quotes")
        case _ if not _fits(value, expected):
            yield Flaw(path, value, f"expected {describe(expected)}{_hint(value, expected)}")


def _find_union_flaws(value: object, union: inspect.UnionType, path: Path, *, is_strict: bool) -> Iterator[Flaw]:
    members = [member for member in union.types if not isinstance(member, inspect.NoneType)]
    flaws_by_member = [list(find_shape_flaws(value, member, path, is_strict=is_strict)) for member in members]
    if all(flaws_by_member):
        if len(members) == 1:
            yield from flaws_by_member[0]
        else:
            yield Flaw(path, value, "expected " + " or ".join(describe(member) for member in members))


def _find_struct_flaws(
    value: dict[object, object], struct: inspect.StructType, path: Path, *, is_strict: bool
) -> Iterator[Flaw]:
    field_by_name = {field.encode_name: field for field in struct.fields}
    for key, item in value.items():
        field = field_by_name.get(key) if isinstance(key, str) else None
        if field is not None:
            yield from find_shape_flaws(item, field.type, (*path, field.encode_name), is_strict=is_strict)
        elif key == struct.tag_field:
            if item != struct.tag:
                yield Flaw((*path, str(key)), item, f"expected {struct.tag}")
        elif is_strict or struct.forbid_unknown_fields:
            yield Flaw((*path, show(key)), item, explain_unknown(show(key), list(field_by_name)))
    for name, field in field_by_name.items():
        if field.required and name not in value:
            yield Flaw((*path, name), "", f"is missing; expected {describe(field.type)}")


def explain_unknown(name: str, known: list[str]) -> str:
    """Returns what to say of a field that is not known, with the nearest name that is."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower()[:100], list(lower), n=1, cutoff=0.6)
    return f"unknown field; did you mean {lower[near[0]]}?" if near else "unknown field"


def _fits(value: object, expected: inspect.Type) -> bool:
    match expected:
        case inspect.LiteralType(values=values):
            return not isinstance(value, bool | float) and isinstance(value, str | int) and value in values
        case inspect.StrType():
            return isinstance(value, str) and _is_text(value, expected)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType(ge=lowest, le=highest):
            if not isinstance(value, int) or isinstance(value, bool):
                return False
            return (-(2**63) if lowest is None else lowest) <= value <= (2**63 - 1 if highest is None else highest)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        case inspect.NoneType():
            return value is None
        case inspect.AnyType() | inspect.CustomType():
            return True
        case _:
            return False


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_text(value: str, expected: inspect.StrType) -> bool:
    if expected.max_length is not None and len(value) > expected.max_length:
        return False
    if expected.pattern is not None and not re.search(expected.pattern, value):
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _hint(value: object, expected: inspect.Type) -> str:
    if isinstance(expected, inspect.StrType) and isinstance(value, int | float) and expected.pattern is None:
        return "; put it in quotes"
    if isinstance(expected, inspect.LiteralType) and isinstance(value, str):
        words = {str(word).lower(): str(word) for word in expected.values}
        near = difflib.get_close_matches(value.lower()[:100], list(words), n=1, cutoff=0.6)
        return f"; did you mean {words[near[0]]}?" if near and words[near[0]] else ""
    return ""


def describe(expected: inspect.Type) -> str:
    """Returns in words what a type accepts."""
    match expected:
        case inspect.Metadata(type=inner):
            return describe(inner)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values if value != "")
        case inspect.StrType(pattern=None, max_length=None):
            return "text"
        case inspect.StrType(pattern=None, max_length=length):
            return f"text of at most {length} characters"
        case inspect.StrType(pattern=pattern):
            return f"text like {pattern}"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType(ge=None, le=None):
            return "a whole number"
        case inspect.IntType(ge=lowest, le=highest):
            return f"a whole number from {lowest} to {highest}"
        case inspect.FloatType():
            return "a number"
        case inspect.VarTupleType(min_length=None, max_length=None):
            return "a list"
        case inspect.VarTupleType(min_length=lowest, max_length=highest):
            return f"a list of {lowest or 0} to {highest} items"
        case inspect.UnionType(types=types):
            return " or ".join(describe(one) for one in types if not isinstance(one, inspect.NoneType))
        case _:
            return "a mapping"
