"""docs/policy.md speaks of every field of policy, and of no test that does not exist."""

from __future__ import annotations

import re
from functools import cache

import msgspec
import pytest

from felix.model.endpoints import EndpointPort, ProfileSpec
from felix.model.networks import NetworkSetSpec
from felix.model.policies import (
    EntityRule,
    GlobalNetworkPolicySpec,
    Icmp,
    NetworkPolicySpec,
    Rule,
    RuleMetadata,
    StagedGlobalNetworkPolicySpec,
    StagedNetworkPolicySpec,
    TierSpec,
)
from tools.checks.sources import ROOT

_DOCUMENT = (ROOT / "docs/policy.md").read_text(encoding="utf-8")
_RECORDS: dict[str, type[msgspec.Struct]] = {
    "Policies": StagedGlobalNetworkPolicySpec,  # it has all that the other three have
    "Rules": Rule,
    "Sides of a rule": EntityRule,
    "ICMP": Icmp,
    "Metadata of a rule": RuleMetadata,
    "Tiers": TierSpec,
    "Profiles": ProfileSpec,
    "Network sets": NetworkSetSpec,
    "Ports of endpoints": EndpointPort,
}
_PROOF = re.compile(r"(test_\w+)(?:::(test_\w+)|\[([^]]+)\])")


def read_rows(section: str) -> dict[str, list[str]]:
    """Returns the cells behind the field, by field."""
    text = _DOCUMENT.partition(f"\n### {section}\n")[2].partition("\n### ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:3] == "| `"]
    return {row[0].strip("| `"): row[1:] for row in rows}


def find_fields(record: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(record)}


@pytest.mark.parametrize("section", _RECORDS)
def test_policy_document_has_every_field_once_with_a_proof(section: str) -> None:
    rows = read_rows(section)
    assert rows.keys() == find_fields(_RECORDS[section])
    for field, cells in rows.items():
        assert _PROOF.search(cells[-1]), field
        assert not re.sub(_PROOF, "", cells[-1]).strip(", |"), field


def test_policy_document_says_which_kinds_have_a_field() -> None:
    own = find_fields(NetworkPolicySpec)
    expected = dict.fromkeys(own, "all")
    expected |= dict.fromkeys(find_fields(GlobalNetworkPolicySpec) - own, "global")
    expected |= dict.fromkeys(find_fields(StagedNetworkPolicySpec) - own, "staged")
    assert {field: cells[0] for field, cells in read_rows("Policies").items()} == expected


@cache
def read_test(name: str) -> str:
    (path,) = (ROOT / "tests").rglob(f"{name}.py")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("proof", sorted(set(_PROOF.findall(_DOCUMENT.partition("\n## Fields\n")[2]))), ids="-".join)
def test_proof_in_the_policy_document_exists(proof: tuple[str, str, str]) -> None:
    file, function, case = proof
    if function:
        assert f"def {function}(" in read_test(file)
    else:
        assert f'    "{case}": Case(' in read_test(file)
