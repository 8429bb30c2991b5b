"""Manifests as resources with lines: YAML as JSON has it, lists, folders, and all that can be wrong with a file."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from felix.__main__ import main
from felix.cli.manifest import read_manifest, split_text
from felix.cli.nodes import find_line, parse_documents
from felix.config.exits import ExitCode
from felix.errors import DataError
from felix.model.shape import Flaw


def values(text: str) -> list[object]:
    return [parsed.value for parsed in parse_documents(text, "x")]


def test_scalars_have_the_types_of_json() -> None:
    text = (
        "{a: 80:90, b: no, c: 00:11:22:33:44:55, d: 2020-01-01, e: 0777, f: ~, g: 0x10, h: 1.5, i: true, j: '1', k: }"
    )
    assert values(text) == [
        {
            "a": "80:90",
            "b": "no",
            "c": "00:11:22:33:44:55",
            "d": "2020-01-01",
            "e": "0777",
            "f": None,
            "g": 16,
            "h": 1.5,
            "i": True,
            "j": "1",
            "k": None,
        }
    ]


def test_documents_of_a_file_are_counted_and_empty_ones_left_out() -> None:
    assert values("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n") == [{"a": 1}, {"b": 2}]
    assert values('{"a": 1}\n{"b": "\\ud83d\\ude00"}\n') == [{"a": 1}, {"b": "😀"}]
    assert values("") == []


def test_aliases_are_written_out() -> None:
    assert values("a: &x [1]\nb: *x\n") == [{"a": [1], "b": [1]}]


@pytest.mark.parametrize(
    "text", ["spec:\n  rules:\n  - a: 1\n  - b: 2\n", '{"spec":\n {"rules":\n [{"a": 1},\n {"b": 2}]}}']
)
def test_line_of_a_field_is_found_in_yaml_and_json(text: str) -> None:
    (parsed,) = parse_documents(text, "x")
    assert find_line(parsed, ("spec", "rules", 1, "b")) == 4
    assert find_line(parsed, ("spec", "rules", 7)) == 2
    assert find_line(parsed, ("nothing",)) == 1


def test_line_of_a_later_json_document_counts_from_the_start_of_the_file() -> None:
    first, second = parse_documents('{"a": 1}\n\n{"b":\n2}', "x")
    assert (find_line(first, ("a",)), find_line(second, ("b",))) == (1, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "x, line 2: is no YAML: "),
        ("a: 1\nb: 2\na: 3\n", "x, line 3: the field a is given twice"),
        ('{"a": 1, "a": 2}', "x: the field a is given twice"),
        ("a: !!python/object:os.system x", "x, line 1: the tag"),
        ("[a]: 1", "x, line 1: expected text as the name of a field"),
        ("a: &x [*x]", "x, line 1: is nested too deeply"),
        ("[" * 100_000, "x, line 1: is nested too deeply"),
        ("- " * 100_000, "x, line 1: is nested too deeply"),
        ("a: \x00", "x: is no YAML: "),
    ],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_manifest_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_documents(text, "x")
    assert str(caught.value).startswith(message)


def test_aliases_that_multiply_are_refused() -> None:
    text = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))
    with pytest.raises(DataError, match="aliases"):
        parse_documents(text, "x")


def test_items_of_a_list_are_resources_that_know_their_place() -> None:
    (sheet,) = split_text("kind: TierList\nitems:\n- kind: Tier\n  metadata: {name: a}\n- 7\n", "f.yaml")
    assert [item.path for item in sheet.items] == [("items", 0), ("items", 1)]
    flaw = Flaw(("metadata", "name"), "a", "is too short")
    assert sheet.explain(sheet.items[0], flaw) == (
        "f.yaml: document 1, line 4: Tier(a): metadata.name: is too short (seen: a)"
    )


def test_folders_are_read_in_order_of_names_and_only_manifests(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text("b: 1")
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "readme.md").write_text("[")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.yml").write_text("c: 1")
    shallow = read_manifest([str(tmp_path)])
    deep = read_manifest([str(tmp_path)], is_recursive=True)
    assert [sheet.parsed.value for sheet in shallow] == [{"a": 1}, {"b": 1}]
    assert [sheet.parsed.value for sheet in deep] == [{"a": 1}, {"b": 1}, {"c": 1}]


def test_standard_input_is_read_by_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a: 1\n---\nb: 2\n"))
    sheets = read_manifest(["-"])
    assert [(sheet.source, sheet.number) for sheet in sheets] == [("standard input", 1), ("standard input", 2)]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    for name, message in (
        ("absent.yaml", "absent.yaml cannot be read: No such file or directory"),
        ("binary.yaml", "binary.yaml cannot be read: it is no UTF-8 text"),
        ("empty.yaml", "no resource in "),
    ):
        with pytest.raises(DataError, match=message):
            read_manifest([str(tmp_path / name)])


@pytest.mark.parametrize("folder", ["demo", "deploy"])
def test_manifests_that_people_are_told_to_apply_have_no_fault(folder: str) -> None:
    paths = sorted((Path(__file__).parents[3] / folder).glob("*.yaml"))
    assert paths
    assert main(["validate", *(f"-f{path}" for path in paths)]) == ExitCode.OK


def test_rate_of_a_policy_that_would_limit_nothing_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "calm.yaml"
    path.write_text(
        "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: calm\n  annotations:\n"
        '    felix/new-connection-rate-per-source: "50/s"\nspec: {selector: all(), types: [Ingress]}\n'
    )
    assert main(["validate", "-f", str(path)]) == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert said.startswith(f"felix: {path}: document 1, line 6: GlobalNetworkPolicy(")
    assert "metadata.annotations[felix/new-connection-rate-per-source]: is not a number from 0 to 1000000" in said


def test_limit_that_would_limit_nothing_is_refused_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "hog.yaml"
    path.write_text(
        "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {name: h1-cni-hog-eth0}\nspec:\n"
        "  {node: h1, orchestrator: cni, workload: hog, containerID: hog, endpoint: eth0, interfaceName: cali1,\n"
        "   qosControls: {egressPacketRate: 5000,\n                 egressBandwidth: 10}}\n"
    )
    assert main(["validate", "-f", str(path)]) == ExitCode.BAD_DATA
    said = capsys.readouterr().err
    assert said.startswith(f"felix: {path}: document 1, line 7: WorkloadEndpoint(")
    assert "spec.qosControls.egressBandwidth: is not from 1000 to 1000000000000000 bit/s; it limits nothing" in said
