"""The frame of felix-mesos: whatever comes in, one line of JSON goes out, and never more than net-modules reads."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.plugins.mesos import main as plugin
from felix.plugins.mesos.main import ANSWER_LIMIT, find_socket, read_timeout, render, respond
from felix.plugins.mesos.request import BadRequest
from felix.plugins.mesos.verbs import VERBS

NOBODY = {"FELIX_RUNDIR": "/nonexistent", "FELIX_MESOS_TIMEOUT": "0.001"}
WORDS = st.sampled_from(
    "uid hostname num_ipv4 num_ipv6 ipv4_addrs ipv6_addrs ips container_id pid netgroups labels key value".split()
)
TEXTS = st.sampled_from(
    ["0f6b3c0e-6a0b-4f4e-9d3e-2b1a5c7d8e9f", "10.1.0.7", "fd00::7", "h1", "['10.1.0.7']", "ipv4_addrs"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 20) | st.floats() | st.text(max_size=6) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=6),
    max_leaves=12,
)
REQUESTS = JSON | st.fixed_dictionaries(
    {"command": st.sampled_from(list(VERBS)) | JSON, "args": st.dictionaries(WORDS, JSON, max_size=8) | JSON}
)


def _answer(data: bytes) -> dict[str, object]:
    answer, _ = respond(data, NOBODY, time.monotonic())
    line = render(answer)
    assert line.endswith(b"\n")
    assert len(line) <= ANSWER_LIMIT
    read = json.loads(line)
    assert "error" in read
    return dict(read)


@given(REQUESTS)
def test_any_json_is_answered_in_json(request: object) -> None:
    error = _answer(json.dumps(request).encode())["error"]
    assert error is None or not str(error).startswith("Unhandled")


@given(st.binary(max_size=64))
def test_any_bytes_are_answered_in_json(data: bytes) -> None:
    assert _answer(data)["error"]


def test_defect_class_that_did_not_exist_any_fault_of_ours_is_an_answer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS, "cleanup", lambda args, ask: args["x"])
    answer, log = respond(b'{"command": "cleanup", "args": {}}', NOBODY, time.monotonic())
    assert answer == {"error": "Unhandled error: KeyError: 'x'"}
    assert "Traceback" in log


def test_error_longer_than_net_modules_reads_is_cut() -> None:
    line = render({"error": "\N{SNOWMAN}" * 100_000})
    assert len(line) <= ANSWER_LIMIT
    assert str(json.loads(line)["error"]).startswith("\N{SNOWMAN}")


def test_most_addresses_that_can_be_asked_for_fit_into_an_answer() -> None:
    answer: dict[str, object] = {"ipv4": ["255.255.255.255"] * 32, "ipv6": [":".join(["ffff"] * 8)] * 32, "error": None}
    assert json.loads(render(answer)) == answer


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan", "inf", "601"])
def test_timeout_that_makes_no_sense_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(BadRequest, match=r"^FELIX_MESOS_TIMEOUT must be seconds up to 600, not: "):
        read_timeout({"FELIX_MESOS_TIMEOUT": text})


def test_timeout_is_half_a_minute_or_what_the_environment_says() -> None:
    assert read_timeout({}) == 30.0
    assert read_timeout({"FELIX_MESOS_TIMEOUT": "2.5"}) == 2.5


def test_socket_is_in_the_run_directory_of_the_agent() -> None:
    assert find_socket({}) == "/run/felix/felix.sock"
    assert find_socket({"FELIX_RUNDIR": "/tmp/x"}) == "/tmp/x/felix.sock"


def test_help_says_how_mesos_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugin.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "ipam_command" in said
    assert "FELIX_MESOS_TIMEOUT" in said


def test_version_says_which_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    assert plugin.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(
        "felix-mesos: net-modules protocol of Mesos 0.25 to 0.28; verbs: allocate"
    )


def test_arguments_are_an_error_in_json(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert plugin.main(["isolate"]) == 1
    said = json.loads(capfdbinary.readouterr().out)
    assert said["error"] == "felix-mesos takes JSON on standard input, no arguments: isolate"
