"""Resources as text: tables, YAML, JSON, names."""

from __future__ import annotations

import json
from collections.abc import Sequence

import yaml

from felix.cli.kinds import COLUMNS_BY_KIND, WIDE_COLUMNS_BY_KIND, Column
from felix.cli.store import Document, Stored
from felix.model.keys import NAMESPACED_KINDS
from felix.model.metadata import API_VERSION
from felix.model.shape import show

CELL_LIMIT = 60
FORMATS = ("ps", "wide", "yaml", "json", "name")


def export_document(stored: Stored) -> Document:
    """Returns a resource as people read and edit it: as stored, with its revision, and its key's name."""
    document = dict(stored.document or {})
    metadata = document.get("metadata")
    kept = dict(metadata) if isinstance(metadata, dict) else {}
    kept["name"] = stored.key.name
    if stored.key.namespace:
        kept["namespace"] = stored.key.namespace
    kept["resourceVersion"] = str(stored.revision)
    rest = {name: value for name, value in document.items() if name not in {"kind", "apiVersion", "metadata"}}
    return {"apiVersion": API_VERSION, "kind": stored.key.kind, "metadata": kept, **rest}


def export_list(kind: str, resources: Sequence[Stored], revision: int) -> Document:
    """Returns resources as one list, which `felix apply` takes back."""
    items = [export_document(one) for one in resources]
    metadata = {"resourceVersion": str(revision)}
    return {"apiVersion": API_VERSION, "kind": f"{kind}List", "metadata": metadata, "items": items}


def render_document(document: Document, form: str) -> str:
    """Returns a document as `yaml` or `json`, with a line break at the end."""
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    text: str = yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    return text


def render_names(resources: Sequence[Stored]) -> str:
    """Returns one line `kind/name` per resource."""
    return "".join(f"{one.key.kind.lower()}/{one.key.name}\n" for one in resources)


def render_table(kind: str, resources: Sequence[Stored], *, is_wide: bool, has_namespaces: bool) -> str:
    """Returns a table with one line per resource; cells are cut in the narrow one."""
    columns = (WIDE_COLUMNS_BY_KIND if is_wide else COLUMNS_BY_KIND)[kind]
    if has_namespaces and kind in NAMESPACED_KINDS:
        columns = (Column("NAMESPACE", "metadata.namespace"), *columns)
    rows = [tuple(column.head for column in columns)]
    for one in resources:
        document = export_document(one)
        rows.append(tuple(_cell(document, column.path, is_wide=is_wide) for column in columns))
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    return "".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def _cell(document: Document, path: str, *, is_wide: bool) -> str:
    value: object = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    match value:
        case None | "" | [] | {}:
            text = ""
        case bool():
            text = "true" if value else "false"
        case list():
            text = ",".join(show(item).strip('"') for item in value)
        case dict():
            text = ",".join(f"{show(name)}={show(item)}" for name, item in value.items())
        case _:
            text = show(value).strip('"')
    return text if is_wide or len(text) <= CELL_LIMIT else text[: CELL_LIMIT - 3] + "..."
