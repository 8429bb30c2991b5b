"""Names of kinds, tables, where etcd is, and the command line itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from felix.__main__ import HELP_BY_COMMAND, main
from felix.cli.connection import find_settings
from felix.cli.kinds import COLUMNS_BY_KIND, KIND_BY_ALIAS, WIDE_COLUMNS_BY_KIND, find_kind
from felix.cli.output import render_document, render_names, render_table
from felix.cli.store import Stored, find_spellings
from felix.config.exits import ExitCode
from felix.errors import DataError
from felix.model.keys import PLURAL_BY_KIND, ResourceKey


@pytest.mark.parametrize(
    ("alias", "kind"),
    [
        ("wep", "WorkloadEndpoint"),
        ("WorkloadEndpoints", "WorkloadEndpoint"),
        ("gnp", "GlobalNetworkPolicy"),
        ("policy", "NetworkPolicy"),
        ("np", "NetworkPolicy"),
        ("hep", "HostEndpoint"),
        ("ippool", "IPPool"),
        ("bgppeers", "BGPPeer"),
        ("bgpconfig", "BGPConfiguration"),
        ("felixconfig", "FelixConfiguration"),
        ("clusterinfo", "ClusterInformation"),
    ],
)
def test_kind_is_found_by_calicoctls_words(alias: str, kind: str) -> None:
    assert find_kind(alias) == kind


def test_every_kind_has_words_and_columns() -> None:
    kinds = set(PLURAL_BY_KIND)
    assert set(KIND_BY_ALIAS.values()) == set(COLUMNS_BY_KIND) == set(WIDE_COLUMNS_BY_KIND) == kinds
    assert len(KIND_BY_ALIAS) == len(set(KIND_BY_ALIAS))


def test_unknown_kind_is_refused_with_the_nearest_word() -> None:
    with pytest.raises(DataError, match=r"'gnpp' is no kind of resource; did you mean gnp\?"):
        find_kind("gnpp")
    for word in ("zzzzzz", "pods"):
        with pytest.raises(DataError, match=r"expected one of bgpconfiguration, .*, workloadendpoint"):
            find_kind(word)


def test_policy_is_looked_for_under_every_spelling_of_its_name() -> None:
    def names(name: str, tier: str = "") -> list[str]:
        return [key.name for key in find_spellings(ResourceKey("GlobalNetworkPolicy", "", name), tier)]

    assert names("a") == ["a", "default.a"]
    assert names("default.a") == ["default.a", "a"]
    assert names("a", "ops") == ["a", "ops.a"]
    assert [key.name for key in find_spellings(ResourceKey("Tier", "", "a"))] == ["a"]


def test_table_has_calicoctls_columns_and_cuts_long_cells() -> None:
    nets = [f"10.0.{number}.0/24" for number in range(20)]
    stored = Stored(
        ResourceKey("WorkloadEndpoint", "shop", "n"),
        {"spec": {"workload": "w", "node": "h", "ipNetworks": nets, "interfaceName": "cali1"}},
        7,
    )
    narrow = render_table("WorkloadEndpoint", [stored], is_wide=False, has_namespaces=False).splitlines()
    wide = render_table("WorkloadEndpoint", [stored], is_wide=True, has_namespaces=True).splitlines()
    assert narrow[0].split() == ["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"]
    assert "..." in narrow[1]
    assert wide[0].split()[0] == "NAMESPACE"
    assert ",".join(nets) in wide[1]
    assert render_names([stored]) == "workloadendpoint/n\n"


def test_table_of_something_malformed_shows_its_name() -> None:
    stored = Stored(ResourceKey("Tier", "", "a"), None, 7)
    assert render_table("Tier", [stored], is_wide=False, has_namespaces=False) == "NAME   ORDER\na\n"


def test_yaml_quotes_what_other_tools_would_read_as_something_else() -> None:
    assert render_document({"a": "no", "b": "1", "c": "2020-01-01"}, "yaml") == "a: 'no'\nb: '1'\nc: '2020-01-01'\n"


@pytest.mark.parametrize(
    ("option", "environ", "endpoints"),
    [
        ("", {}, ("http://127.0.0.1:2379",)),
        ("http://a:1, http://b:2", {"ETCD_ENDPOINTS": "http://c:3"}, ("http://a:1", "http://b:2")),
        ("", {"ETCD_ENDPOINTS": "http://c:3", "FELIX_ETCDENDPOINTS": "http://d:4"}, ("http://c:3",)),
        ("", {"FELIX_EtcdEndpoints": "http://d:4"}, ("http://d:4",)),
        ("", {"FELIX_ETCDADDR": "e:5", "FELIX_ETCDSCHEME": "https"}, ("https://e:5",)),
    ],
)
def test_etcd_is_found_by_option_then_calicoctls_then_the_agents_environment(
    option: str, environ: dict[str, str], endpoints: tuple[str, ...]
) -> None:
    assert find_settings(option, environ).endpoints == endpoints


def test_help_of_every_command_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ["", *HELP_BY_COMMAND]:
        with pytest.raises(SystemExit) as left:
            main([*command.split(), "--help"])
        assert left.value.code == 0
        assert f"felix {command}".strip() in capsys.readouterr().out.partition("examples:")[2]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["appl"],
        ["get"],
        ["apply"],
        ["get", "gnp", "-o", "xml"],
        ["get", "gnp,np", "a"],
        ["get", "np", "a", "-A"],
        ["delete"],
        ["delete", "gnp"],
        ["delete", "gnp", "a", "-f", "b"],
    ],
    ids=str,
)
def test_command_line_that_cannot_be_understood_is_a_usage_error(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == ExitCode.USAGE
    assert "usage: felix" in capsys.readouterr().err


def test_only_what_is_missing_is_called_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["get"])
    assert capsys.readouterr().err.endswith("are required: KIND\n")


def test_version_is_told_as_an_option_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == ExitCode.OK
    assert capsys.readouterr().out.startswith("Felix ")


def test_lines_of_help_fit_a_terminal_of_120_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command in ["", *HELP_BY_COMMAND]:
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_etcd_that_is_away_is_named_with_a_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["get", "gnp", "--etcd-endpoints", "http://127.0.0.1:1"]) == ExitCode.PEER_AWAY
    error = capsys.readouterr().err
    assert error.startswith(
        "felix: etcd does not answer at http://127.0.0.1:1: Range at 127.0.0.1:1: Connection refused\n"
    )
    assert "--etcd-endpoints" in error


def test_start_of_the_command_imports_only_what_it_needs() -> None:
    script = (
        "import sys; from felix.__main__ import make_parser; make_parser('');"
        "print([name for name in ('grpc', 'yaml', 'asyncio', 'felix.cli.get') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
