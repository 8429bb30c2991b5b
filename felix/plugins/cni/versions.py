"""The versions of the specification that the plug-ins speak, and what each of them brought."""

from __future__ import annotations

SUPPORTED = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
OLDEST = SUPPORTED[0]
NEWEST = SUPPORTED[-1]
FIRST_WITH = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""Which verb came with which version; the others are older than versions are."""


def is_before(version: str, other: str) -> bool:
    """Whether `version` is older than `other`; both are supported ones."""
    return SUPPORTED.index(version) < SUPPORTED.index(other)


def render_answer() -> str:
    """Returns what VERSION answers. Written by hand: it needs no module that encodes JSON."""
    listed = ", ".join(f'"{version}"' for version in SUPPORTED)
    return f'{{"cniVersion": "{NEWEST}", "supportedVersions": [{listed}]}}\n'
