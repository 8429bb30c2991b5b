"""Manifests: files, folders and standard input, as resources that know where they stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from felix.cli.nodes import Parsed, find_line, parse_documents
from felix.errors import DataError
from felix.model import shape
from felix.model.shape import Flaw, format_path, show
from felix.model.validate import name_document

SUFFIXES = frozenset({".yaml", ".yml", ".json"})
Document = dict[str, object]


class Item(NamedTuple):
    """One resource of a manifest. path: where in its document it stands; empty but for the items of a list."""

    value: object
    path: shape.Path


class Sheet(NamedTuple):
    """One document of a manifest: either all of its resources are written, or none. number: counts from 1."""

    source: str
    number: int
    parsed: Parsed
    items: tuple[Item, ...]

    def explain(self, item: Item, flaw: Flaw) -> str:
        """Returns what is wrong with an item, with file, document, line, field, reason and what was seen."""
        path = item.path + flaw.path
        line = find_line(self.parsed, path)
        field = f" {format_path(flaw.path)}:" if flaw.path else ""
        seen = f" (seen: {show(flaw.value)})" if flaw.value != "" else ""
        where = f"{self.source}: document {self.number}, line {line}"
        return f"{where}: {name_document(item.value)}:{field} {flaw.reason}{seen}"


def read_manifest(names: Sequence[str], *, is_recursive: bool = False) -> list[Sheet]:
    """Returns the documents of files, folders (their .yaml, .yml and .json files in order of names) and `-`.

    Raises DataError naming what cannot be read, and when there is no document at all.
    """
    sheets = [sheet for name in names for sheet in _read_one(name, is_recursive=is_recursive)]
    if not sheets:
        places = ("standard input" if name == "-" else name for name in names)
        raise DataError(f"no resource in {', '.join(places)}")
    return sheets


def _read_one(name: str, *, is_recursive: bool) -> Iterator[Sheet]:
    if name == "-":
        yield from split_text(sys.stdin.read(), "standard input")
        return
    path = Path(name)
    files = [path]
    if path.is_dir():
        found = path.rglob("*") if is_recursive else path.iterdir()
        files = sorted(one for one in found if one.suffix in SUFFIXES and one.is_file())
    for one in files:
        try:
            text = one.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{one} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{one} cannot be read: it is no UTF-8 text ({error.reason})") from error
        yield from split_text(text, str(one))


def split_text(text: str, source: str) -> Iterator[Sheet]:
    """Yields the documents of a text. Raises DataError with source, line and reason."""
    for number, parsed in enumerate(parse_documents(text, source), start=1):
        yield Sheet(source, number, parsed, tuple(_split_list(parsed.value)))


def _split_list(value: object) -> Iterator[Item]:
    """Yields the items of a List (or GlobalNetworkPolicyList, ...), or the thing itself if it is none."""
    if not isinstance(value, dict):
        yield Item(value, ())
        return
    items, kind = value.get("items"), value.get("kind")
    if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
        for index, item in enumerate(items):
            yield Item(item, ("items", index))
    else:
        yield Item(value, ())
