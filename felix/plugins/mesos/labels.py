"""Labels as Mesos sends them, and as an endpoint can carry them. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

NAMESPACE_LABEL = "projectcalico.org/namespace"
"""The label that says in which namespace the endpoint is."""

LABELS_LIMIT = 256
_SHOWN = 80  # characters of a bad value in an error


class BadLabels(ValueError):
    """The labels cannot be used; the text names the field."""


def parse_labels(value: object, where: str = "labels") -> dict[str, str]:
    """Returns labels by key from any form that Mesos and its modules have used; the last of equal keys counts.

    value: a list of `{"key":…, "value":…}` (a value may be missing), the same wrapped as `{"labels": […]}`, a plain
    object, or None. A value that is no text becomes its JSON. Raises BadLabels.
    """
    if isinstance(value, dict) and set(value) == {"labels"} and isinstance(value["labels"], list | dict | None):
        where, value = f"{where}.labels", value["labels"]
    if value is None:
        return {}
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [_parse_label(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    else:
        raise BadLabels(f"{where}: must be a list of keys and values or an object, not: {type(value).__name__}")
    if len(pairs) > LABELS_LIMIT:
        raise BadLabels(f"{where}: has {len(pairs)} labels; {LABELS_LIMIT} is the most")
    return {key: _parse_text(text) for key, text in pairs}


def render_labels(labels: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """Returns labels as Mesos writes them in JSON."""
    return {"labels": [{"key": key, "value": value} for key, value in labels.items()]}


def sanitise_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Returns labels that an endpoint can carry, written as Calico writes those of Mesos; empty keys are left out.

    `/a/b/c` becomes `a.b.c`. Of keys that become equal, the last counts.
    """
    return {sane: sanitise(value) for key, value in labels.items() if (sane := sanitise(key))}


def sanitise(text: str) -> str:
    """Returns the text with dots for slashes and dashes for what a label cannot have, without either at its ends."""
    text = re.sub(r"[^-_.A-Za-z0-9]", "-", text.replace("/", "."))
    return re.sub(r"[-_.]*\.[-_.]*", ".", text).strip(".-")


def _parse_label(entry: object, where: str) -> tuple[str, object]:
    key = entry.get("key") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(key, str):
        raise BadLabels(f"{where}: must be an object with key and value, not: {repr(entry)[:_SHOWN]}")
    return key, entry.get("value")


def _parse_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
