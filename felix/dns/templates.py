"""How an operator says what endpoints are called: `{label:app}.{namespace}.felix`.

    template     text and placeholders; all of it is one name, which ends with the domain
    placeholder  {source} {source:key}, then any of |dotted |keep |hash |or=TEXT
    source       label:KEY annotation:KEY namespace name node orchestrator workload endpoint pod id port protocol

Values become labels by Mesos-DNS's rules (`names.mangle_label`): `/` and other strange characters go, dots and
underscores become dashes. `dotted` keeps dots as borders of labels, `keep` keeps underscores, `hash` stands five
characters for the value, `or=` says what counts when there is no value. Without value and `or=` there is no name.
`id` is five characters that stand for the endpoint. `port` and `protocol` make it a template of SRV records, one per
port of the endpoint. A label that gets longer than 63 characters is cut where its longest value is.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple

from felix.dns.names import MAX_LABEL, hash5, is_name, mangle_label

KEYED_SOURCES = frozenset({"label", "annotation"})
SOURCES = frozenset("namespace name node orchestrator workload endpoint pod id port protocol".split())
PORT_SOURCES = frozenset({"port", "protocol"})
OPTIONS = frozenset({"dotted", "keep", "hash"})

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_LITERAL = re.compile(r"[a-z0-9_.-]*")


class Field(NamedTuple):
    """A placeholder. key: of label and annotation. fallback: None when a missing value means that there is no name."""

    source: str
    key: str = ""
    options: frozenset[str] = frozenset()
    fallback: str | None = None


class Template(NamedTuple):
    """One way to call endpoints.

    is_unique: whether two endpoints may never have the same name by it. service: the fields whose raw values say
    which endpoints belong together; None: the namespace, and all fields of the template but those of ports.
    """

    text: str
    parts: tuple[str | Field, ...]
    is_unique: bool = False
    service: tuple[Field, ...] | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        """The placeholders, in their order."""
        return tuple(part for part in self.parts if isinstance(part, Field))

    @property
    def is_of_ports(self) -> bool:
        """Whether it makes SRV records, one per port, instead of addresses."""
        return any(field.source in PORT_SOURCES for field in self.fields)

    @property
    def service_fields(self) -> tuple[Field, ...]:
        """The fields whose raw values must agree where endpoints share a name."""
        if self.service is not None:
            return self.service
        own = [Field(field.source, field.key) for field in self.fields if field.source not in PORT_SOURCES]
        return tuple(dict.fromkeys((Field("namespace"), *own)))


Values = Mapping[tuple[str, str], str]
"""Raw values by source and key of fields; one that is missing or empty is no value."""


def parse_template(
    text: str, domain: str, *, is_unique: bool = False, service: Sequence[str] | None = None
) -> Template:
    """Returns the template. service: fields without braces (`label:app`). Raises ValueError with the reason."""
    parts: list[str | Field] = []
    at = 0
    for match in _PLACEHOLDER.finditer(text):
        parts += [_check_literal(text[at : match.start()]), parse_field(match[1])]
        at = match.end()
    parts.append(_check_literal(text[at:]))
    kept = tuple(part for part in parts if part != "")
    if not kept or not isinstance(kept[-1], str) or not kept[-1].endswith("." + domain):
        raise ValueError(f"must end with .{domain}, the domain of these names, as {{label:app}}.{{namespace}}.{domain}")
    if not any(isinstance(part, Field) for part in kept):
        raise ValueError("has no placeholder, so that every endpoint would have this one name")
    fields = None if service is None else tuple(parse_field(one) for one in service)
    if fields and any(field.source in PORT_SOURCES for field in fields):
        raise ValueError("port and protocol cannot say which endpoints belong together")
    return Template(text, kept, is_unique, fields)


def parse_field(text: str) -> Field:
    """Returns the placeholder that stands between braces. Raises ValueError with the reason."""
    head, *options = text.split("|")
    source, _, key = head.partition(":")
    known = ", ".join(sorted(SOURCES) + [f"{one}:KEY" for one in sorted(KEYED_SOURCES)])
    if source not in SOURCES | KEYED_SOURCES:
        raise ValueError(f"{{{text}}} names nothing of an endpoint: choose among {known}")
    if (source in KEYED_SOURCES) != bool(key):
        raise ValueError(f"{{{text}}} needs a key, as {{{source}:app}}" if not key else f"{{{text}}} takes no key")
    fallback = None
    flags = set()
    for option in options:
        name, equals, value = option.partition("=")
        if name == "or" and equals:
            fallback = value
        elif option in OPTIONS:
            flags.add(option)
        else:
            raise ValueError(f"{{{text}}}: there is no |{option}, only |{', |'.join(sorted(OPTIONS))}, |or=TEXT")
    return Field(source, key, frozenset(flags), fallback)


def render_name(template: Template, values: Values) -> str:
    """Returns the name, empty when a value is missing or nothing of it can be in a name."""
    labels: list[list[tuple[str, bool]]] = [[]]
    for part in template.parts:
        if isinstance(part, str):
            made, is_value = part, False
        else:
            made, is_value = _render_field(part, values), True
            if not made:
                return ""
        first, *others = made.split(".")
        labels[-1].append((first, is_value))
        labels += [[(other, is_value)] for other in others]
    name = ".".join(_fit(label) for label in labels)
    return name if is_name(name) else ""


def find_service(fields: tuple[Field, ...], values: Values) -> Hashable:
    """Returns what says which endpoints share a name: the raw values of these fields, not what is made of them."""
    return fields, tuple(values.get(field[:2], "") for field in fields)


def _render_field(field: Field, values: Values) -> str:
    value = values.get((field.source, field.key)) or field.fallback
    if not value:
        return ""
    if "hash" in field.options:
        return hash5(value)
    keeps = "keep" in field.options
    if "dotted" in field.options:
        return ".".join(_iterate_labels(value, keeps))
    return mangle_label(value, keeps_underscores=keeps)


def _iterate_labels(value: str, keeps: bool) -> Iterator[str]:
    for part in value.split("."):
        if label := mangle_label(part, keeps_underscores=keeps):
            yield label


def _fit(label: list[tuple[str, bool]]) -> str:
    """Returns the label, its longest value cut so that it fits."""
    text = "".join(part for part, _ in label)
    excess = len(text) - MAX_LABEL
    if excess <= 0:
        return text
    longest = max(
        (at for at, (_, is_value) in enumerate(label) if is_value), key=lambda at: len(label[at][0]), default=-1
    )
    return "".join(
        part[: max(0, len(part) - excess)].rstrip("-") if at == longest else part for at, (part, _) in enumerate(label)
    )


def _check_literal(text: str) -> str:
    if not _LITERAL.fullmatch(text):
        raise ValueError(
            f"{text!r} cannot be part of a name: use a-z, 0-9, -, _ and dots, and {{...}} around placeholders"
        )
    return text
