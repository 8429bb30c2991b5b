"""YAML and JSON as plain values that remember their lines.

Types of scalars are those of YAML 1.2 and JSON: `80:90` is a text, not a number to base 60, and `no` is no boolean.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple, Protocol

import yaml

from felix.errors import DataError
from felix.model.shape import Path, show

DEPTH_LIMIT = 100
NODE_LIMIT = 1_000_000
SIZE_LIMIT_BYTES = 64 * 1024 * 1024
LINES_LIMIT = 1024 * 1024  # JSON that is longer is not read twice just to know its lines

_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class Parsed(NamedTuple):
    """One document: its value, its node (None: lines inside are not known), and how many lines stand before it."""

    value: object
    node: yaml.Node | None
    lines_before: int


class _Mark(Protocol):
    @property
    def line(self) -> int: ...


class _Loader(yaml.CSafeLoader):
    """libyaml's parser with the few scalar types of JSON."""


_Loader.yaml_implicit_resolvers = {}  # otherwise the types of YAML 1.1 would be inherited
for _name, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])]
    )


def parse_documents(text: str, source: str) -> list[Parsed]:
    """Returns the documents of a text in order, empty ones left out. Raises DataError with source, line and reason."""
    if len(text) > SIZE_LIMIT_BYTES:
        raise DataError(f"{source}: is longer than {SIZE_LIMIT_BYTES} characters; split it")
    if text.lstrip()[:1] == "{" and (documents := _parse_json(text, source)) is not None:
        return documents
    return _parse_yaml(text, source)


def find_line(parsed: Parsed, path: Path) -> int:
    """Returns the line of what `path` names, or of the nearest thing around it that is there."""
    node = parsed.node
    line = _line(node)
    for step in path:
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == step), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            found = (node.value[step], node.value[step])
        if found is None:
            break
        line, node = _line(found[0]), found[1]
    return parsed.lines_before + line


def _line(node: yaml.Node | None) -> int:
    return 1 if node is None else _mark_line(node.start_mark)


def _mark_line(mark: _Mark | None) -> int:
    return 1 if mark is None else mark.line + 1


def _parse_yaml(text: str, source: str) -> list[Parsed]:
    try:
        _check_depth(text, source)
        loader = _Loader(text)
        try:
            documents = []
            while loader.check_node():
                node = loader.get_node()
                if node is None:
                    continue
                builder = _Builder(source)
                value = builder.build(node, 0)
                if value is not None:
                    documents.append(Parsed(value, node, 0))
            return documents
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise DataError(f"{source}{where}: is no YAML: {error.problem or error}") from error
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise DataError(f"{source}: is no YAML: {' '.join(str(error).split())}") from error


def _check_depth(text: str, source: str) -> None:
    """Raises DataError when the text is nested deeper than what is composed by recursion can bear."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_LIMIT:
                raise DataError(f"{source}, line {_mark_line(event.start_mark)}: is nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Builder:
    """Makes plain values of the nodes of one document; aliases are written out."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._count = 0

    def build(self, node: yaml.Node, depth: int) -> object:
        self._count += 1
        if depth > DEPTH_LIMIT or self._count > NODE_LIMIT:
            raise self._fault(node, "is nested too deeply, or too long with its aliases written out")
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._build_mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.build(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode):
            return self._build_scalar(node, kind)
        raise self._fault(node, f"the tag {show(node.tag)} is not allowed")

    def _build_mapping(self, node: yaml.MappingNode, depth: int) -> dict[object, object]:
        result: dict[object, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._fault(key_node, "expected text as the name of a field")
            key = key_node.value
            if key in result:
                raise self._fault(key_node, f"the field {show(key)} is given twice")
            result[key] = self.build(value_node, depth + 1)
        return result

    def _build_scalar(self, node: yaml.ScalarNode, kind: str) -> object:
        text: str = node.value
        try:
            match kind:
                case "str":
                    return text
                case "null":
                    return None
                case "bool":
                    return _BOOLEANS[text]
                case "int":
                    return int(text, 0) if text[:2] in {"0x", "0o"} else int(text)
                case "float":
                    return float(text)
        except (ValueError, KeyError) as error:
            raise self._fault(node, f"{show(text)} is no {kind}") from error
        raise self._fault(node, f"the tag {show(node.tag)} is not allowed")

    def _fault(self, node: yaml.Node, reason: str) -> DataError:
        return DataError(f"{self._source}, line {_line(node)}: {reason}")


def _parse_json(text: str, source: str) -> list[Parsed] | None:
    """Returns the documents of a text that is JSON, one or several after another; None when it is not JSON."""

    def build(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{source}: the field {show(twice)} is given twice")
        return dict(pairs)

    def refuse(word: str) -> object:
        raise ValueError(word)

    decoder = json.JSONDecoder(object_pairs_hook=build, parse_constant=refuse)
    documents = []
    try:
        position = _skip_blanks(text, 0)
        while position < len(text):
            value, end = decoder.raw_decode(text, position)
            documents.append(Parsed(value, _find_node(text[position:end]), text.count("\n", 0, position)))
            position = _skip_blanks(text, end)
    except (ValueError, RecursionError):
        return None
    return documents


def _skip_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _find_node(text: str) -> yaml.Node | None:
    """Returns the node of one JSON document, which is nearly always YAML too; wanted for its lines only."""
    if len(text) > LINES_LIMIT:
        return None
    try:
        _check_depth(text, "")
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except (yaml.YAMLError, DataError):
        return None
