"""From what several sources say to the settings in force, with the source of each; and what a change of them asks for.

A source never stops another one: a value that cannot be used is a `Problem`, and what stood before goes on to stand.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from felix.config.known import REASON_BY_LOWERED_NAME
from felix.config.table import SETTING_BY_LOWERED_NAME, SETTINGS, Setting, Settings
from felix.errors import Problem, shorten

ENVIRONMENT_PREFIX = "FELIX_"


class Kind(enum.Enum):
    """Where a source is kept, which says how it spells names and what it may set."""

    ENVIRONMENT = "environment"
    FILE = "file"
    DATASTORE = "datastore"


@dataclass(frozen=True, slots=True)
class Source:
    """What one source says, as spelled and typed there. name: for messages, as `/etc/calico/felix.cfg`."""

    kind: Kind
    name: str
    value_by_name: Mapping[str, object]


class Origin(NamedTuple):
    """Where the value of a setting comes from. text: as given there, or `(secret)`."""

    source: str
    text: str


DEFAULT = Origin("default", "")


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings in force.

    origin_by_attribute: for every setting, by its attribute of `Settings`.
    problems: values that cannot be used; each names setting, value and source. notices: names that have no effect.
    """

    settings: Settings
    origin_by_attribute: Mapping[str, Origin]
    problems: tuple[Problem, ...]
    notices: tuple[Problem, ...]


class Changes(NamedTuple):
    """Names of settings that differ, in table order: those that take effect at once, and those that need a restart."""

    live: tuple[str, ...]
    restart: tuple[str, ...]


def resolve(sources: Sequence[Source], previous: Resolved | None = None) -> Resolved:
    """Returns the settings that `sources`, strongest first, amount to.

    A value that cannot be used is a problem. Its setting then keeps what `previous` says; without `previous`,
    the next source or the default counts.
    """
    merge = _Merge(previous)
    for source in sources:
        for name, raw in source.value_by_name.items():
            merge.take(source, name, raw)
    settings = msgspec.convert(merge.values, Settings)
    contradictions = _find_contradictions(settings, merge.origins)
    if any(problem.field == "ReportingTTLSecs" for problem in contradictions):
        settings = dataclasses.replace(settings, reporting_ttl_s=settings.reporting_interval_s * 2.5)
        merge.origins["reporting_ttl_s"] = Origin("2.5 times ReportingIntervalSecs", "")
    return Resolved(
        settings,
        {setting.attribute: merge.origins.get(setting.attribute, DEFAULT) for setting in SETTINGS},
        (*merge.problems, *contradictions),
        tuple(merge.notices),
    )


class _Merge:
    """Values by attribute and where they come from, as far as they have been taken; the first one stays."""

    def __init__(self, previous: Resolved | None) -> None:
        self.values: dict[str, object] = {}
        self.origins: dict[str, Origin] = {}
        self.problems: list[Problem] = []
        self.notices: list[Problem] = []
        self._previous = previous

    def take(self, source: Source, name: str, raw: object) -> None:
        """Takes what one source says about one name: as value, as problem or as notice."""
        setting = _find_setting(source.kind, name)
        if setting is None:
            self.notices.append(_explain_name(source, name))
            return
        shown = _format_shown(setting, raw)
        origin = Origin(_place(source, name), shown)
        try:
            value = setting.about.reader.read(_format_raw(raw).strip())
        except (ValueError, ArithmeticError):
            reason = f"give {setting.about.reader.accepts}"
            self.problems.append(Problem(origin.source, setting.about.name, shown or '""', reason))
            if self._previous is None:
                return
            value = getattr(self._previous.settings, setting.attribute)
            origin = self._previous.origin_by_attribute[setting.attribute]
        if setting.attribute not in self.values:
            self.values[setting.attribute] = value
            self.origins[setting.attribute] = origin


def datastore_sources(hostname: str, spec_by_name: Mapping[str, Mapping[str, object]]) -> tuple[Source, ...]:
    """Returns what FelixConfigurations say to this host, the stronger first: `node.<hostname>`, then `default`.

    spec_by_name: the `spec` of each FelixConfiguration that exists, as decoded from JSON.
    """
    return tuple(
        Source(Kind.DATASTORE, f"FelixConfiguration {name}", spec_by_name[name])
        for name in (f"node.{hostname}", "default")
        if name in spec_by_name
    )


def find_changes(old: Settings, new: Settings) -> Changes:
    """Returns which settings differ; the order of arguments does not matter."""
    changed = [row for row in SETTINGS if getattr(old, row.attribute) != getattr(new, row.attribute)]
    return Changes(
        live=tuple(row.about.name for row in changed if row.about.is_live),
        restart=tuple(row.about.name for row in changed if not row.about.is_live),
    )


def _find_setting(kind: Kind, name: str) -> Setting | None:
    match kind:
        case Kind.ENVIRONMENT:
            return SETTING_BY_LOWERED_NAME.get(name.removeprefix(ENVIRONMENT_PREFIX).lower())
        case Kind.FILE:
            return SETTING_BY_LOWERED_NAME.get(name.lower())
        case Kind.DATASTORE:
            return _SETTING_BY_LOWERED_YAML_NAME.get(name.lower())


_SETTING_BY_LOWERED_YAML_NAME = {row.yaml_name.lower(): row for row in SETTINGS if row.yaml_name}
_SPELLINGS = sorted({row.about.name for row in SETTINGS} | {row.yaml_name for row in SETTINGS if row.yaml_name})


def _explain_name(source: Source, name: str) -> Problem:
    plain = name.removeprefix(ENVIRONMENT_PREFIX) if source.kind is Kind.ENVIRONMENT else name
    if reason := REASON_BY_LOWERED_NAME.get(plain.lower()):
        return Problem(source.name, name, "", f"this setting of Calico has no effect: {reason.text}")
    if plain.lower() in SETTING_BY_LOWERED_NAME and source.kind is Kind.DATASTORE:
        return Problem(source.name, name, "", "this can only be set in the environment or in the file of the host")
    close = difflib.get_close_matches(plain.lower(), [spelling.lower() for spelling in _SPELLINGS], n=1, cutoff=0.75)
    hint = next(
        (f"; did you mean {spelling}?" for spelling in _SPELLINGS if close and spelling.lower() == close[0]), ""
    )
    return Problem(source.name, name, "", f"there is no such setting{hint}")


def _place(source: Source, name: str) -> str:
    return f"environment {name}" if source.kind is Kind.ENVIRONMENT else source.name


def _format_shown(setting: Setting, raw: object) -> str:
    return "(secret)" if setting.about.is_secret else shorten(_format_raw(raw))


def _format_raw(raw: object) -> str:
    """Returns the text that a file would have for a value of a resource: lists by commas, truth as true and false."""
    match raw:
        case str():
            return raw
        case bool():
            return "true" if raw else "false"
        case list() | tuple() if all(isinstance(item, (str, int)) for item in raw):
            return ",".join(map(str, raw))
        case None:
            return ""
        case int() | float():
            return str(raw)
        case _:
            return json.dumps(raw, default=str)


def _find_contradictions(settings: Settings, origins: Mapping[str, Origin]) -> list[Problem]:
    """Returns what is wrong with values that are good one by one, under the source of the culprit."""

    def complain(attribute: str, name: str, reason: str) -> Problem:
        origin = origins.get(attribute, DEFAULT)
        return Problem(origin.source, name, origin.text, reason)

    found = []
    if bool(settings.etcd_cert_file) != bool(settings.etcd_key_file):
        given = "EtcdCertFile" if settings.etcd_cert_file else "EtcdKeyFile"
        attribute = "etcd_cert_file" if settings.etcd_cert_file else "etcd_key_file"
        found.append(complain(attribute, given, "give EtcdCertFile and EtcdKeyFile, or neither"))
    if len({url.partition(":")[0] for url in settings.etcd_urls}) > 1:
        found.append(complain("etcd_endpoints", "EtcdEndpoints", "give only http:// or only https:// addresses"))
    if bool(settings.etcd_username) != bool(settings.etcd_password):
        given = "EtcdUsername" if settings.etcd_username else "EtcdPassword"
        attribute = "etcd_username" if settings.etcd_username else "etcd_password"
        found.append(complain(attribute, given, "give EtcdUsername and EtcdPassword, or neither"))
    if 0 < settings.reporting_interval_s >= settings.reporting_ttl_s:
        found.append(complain("reporting_ttl_s", "ReportingTTLSecs", "give more than ReportingIntervalSecs"))
    return found
