"""The records against the fields, words and ranges of Calico v3.32's published schemas (schema_fields.txt)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from msgspec import inspect

from felix.model.records import RESOURCE_BY_KIND

# Known to Calico, not to the records: rules with them deny everything, manifests with them are warned about.
UNENFORCED = (".http.", ".services.", ".serviceAccounts.")


class Row(NamedTuple):
    kind: str
    path: str
    meaning: str


def read_rows() -> list[Row]:
    rows = []
    kind = ""
    for line in (Path(__file__).parent / "schema_fields.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            kind = line[2:]
        else:
            path, _, meaning = line.partition(" = ")
            rows.append(Row(kind, path, meaning))
    return rows


ROWS = [row for row in read_rows() if not any(word in row.path for word in UNENFORCED)]


def unwrap(found: inspect.Type) -> inspect.Type:
    match found:
        case inspect.Metadata(type=inner):
            return unwrap(inner)
        case inspect.UnionType(types=types):
            members = [unwrap(one) for one in types if not isinstance(one, inspect.NoneType)]
            return members[0] if len(members) == 1 else found
        case _:
            return found


def find_type(kind: str, path: str) -> inspect.Type | None:
    found: inspect.Type = inspect.type_info(RESOURCE_BY_KIND[kind])
    for word in path.split("."):
        name = word.removesuffix("[]")
        found = unwrap(found)
        if isinstance(found, inspect.DictType):
            found = found.value_type
            continue
        if not isinstance(found, inspect.StructType):
            return None
        field = next((one for one in found.fields if one.encode_name == name), None)
        if field is None:
            return None
        found = unwrap(field.type)
        if word.endswith("[]"):
            if not isinstance(found, inspect.VarTupleType):
                return None
            found = unwrap(found.item_type)
    return unwrap(found)


def test_schemas_name_every_kind_that_they_publish() -> None:
    published = {row.kind for row in read_rows()}
    assert set(RESOURCE_BY_KIND) - published == {"FelixConfiguration", "Node", "Profile", "WorkloadEndpoint"}


@pytest.mark.parametrize("kind", sorted({row.kind for row in ROWS}))
def test_record_of_every_kind_has_every_field_of_its_schema(kind: str) -> None:
    assert [row.path for row in ROWS if row.kind == kind and find_type(kind, row.path) is None] == []


def find_differences() -> Iterator[tuple[Row, object]]:
    for row in ROWS:
        found = find_type(row.kind, row.path)
        low, dots, high = row.meaning.partition("..")
        match found:
            case inspect.LiteralType(values=values):
                if {str(value) for value in values if value != ""} != set(row.meaning.split("|")):
                    yield row, values
            case inspect.IntType(ge=lowest, le=highest) if dots and (lowest, highest) != (int(low), int(high)):
                yield row, (lowest, highest)
            case inspect.StrType() if row.meaning != "string":
                yield row, found
            case inspect.BoolType() if row.meaning != "boolean":
                yield row, found
            case inspect.UnionType() if row.meaning != "int-or-text":
                yield row, found


def test_words_and_ranges_of_records_are_those_of_the_schemas() -> None:
    # Both families share one record of lengths; checks.py knows that those of IPv4 end at 32.
    shared = ("prefixLength.max", "prefixLength.min")
    # Unknown hints do no harm, so they do not make a policy unreadable.
    lenient = ("performanceHints[]",)
    differing = [row.path for row, _ in find_differences() if not row.path.endswith(shared + lenient)]
    assert differing == []
