"""felix-cni and felix-ipam on the fake agent: what they do for a runtime, and what they do when the agent fails."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cni import FOREIGN, CniHost, Runtime, write_launchers
from tests.support.cni_contract import CniContract
from tests.support.fake_agent import DIE, DROP, HANG, FakeAgent
from tests.support.netns import private_namespace

pytestmark = pytest.mark.fv


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """The network namespace of a host."""
    with private_namespace("cnihost") as one:
        yield one.name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the executables are, as if somebody had copied them."""
    return str(write_launchers(tmp_path_factory.mktemp("cni")))


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    """An agent that listens."""
    with FakeAgent(tmp_path / "felix.sock") as one:
        yield one


@pytest.fixture
def host(namespace: str, folder: str, agent: FakeAgent) -> Iterator[CniHost]:
    """A host with that agent."""
    with contextlib.closing(CniHost(namespace, (folder, FOREIGN), str(agent.path), "10.1.0.50")) as one:
        yield one


class TestOnFakeAgent(CniContract):
    """All that a runtime may rely on."""


def test_agent_that_is_away_is_a_reason_to_try_again(host: CniHost, tmp_path: Path) -> None:
    one = host.container()
    conf = one.conf("1.1.0", agent_socket=str(tmp_path / "none.sock"), agent_timeout=0.2)
    for command in ("ADD", "DEL", "CHECK"):
        answer = one.call(command, conf)
        assert answer.code == 11, answer.describe()
        assert "none.sock" in str(answer.document)
    assert one.call("STATUS", conf).code == 50
    assert one.call("STATUS", conf, plugin="felix-ipam").code == 50
    assert one.call("GC", conf | {"cni.dev/valid-attachments": []}).code == 11


def test_agent_that_restarts_in_the_middle_is_asked_again(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    agent.answers["/v1/attach"] = [DROP, DROP]
    one.add(one.conf())
    assert len(agent.asked("/v1/attach")) == 3
    agent.answers["/v1/detach"] = [DROP]
    one.succeed("DEL", one.conf())
    assert agent.attachments == {}


def test_agent_that_died_after_it_attached_is_no_second_add(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    agent.answers["/v1/attach"] = [DIE]
    one.add(one.conf())
    assert len(agent.attachments) == len(agent.holders) == 1
    one.succeed("DEL", one.conf())
    assert agent.holders == {}


def test_agent_that_is_not_in_sync_is_waited_for(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    unavailable = (503, {"error": "not in sync with etcd yet", "code": "unavailable"})
    agent.answers["/v1/attach"] = [unavailable, unavailable]
    one.add(one.conf())
    agent.answers["/v1/attach"] = unavailable
    other = host.container()
    answer = other.call("ADD", other.conf(agent_timeout=0.3))
    assert answer.code == 11
    assert "not in sync" in str(answer.document)


def test_agent_that_hangs_is_undone_as_far_as_it_can_be(host: CniHost, agent: FakeAgent, tmp_path: Path) -> None:
    one = host.container()
    agent.answers["/v1/attach"] = HANG
    local = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.77.0.0/24"}
    answer = one.call("ADD", one.conf("1.0.0", ipam=local, policy_setup_timeout_seconds=0.2))
    assert answer.code == 11, answer.describe()
    assert agent.asked("/v1/detach")[-1]["container"] == one.container
    assert list(tmp_path.rglob("10.77.*")) == []


@pytest.mark.parametrize(
    ("status", "word", "code"),
    [
        (400, "invalid", 7),
        (409, "exhausted", 102),
        (409, "conflict", 101),
        (500, "internal", 100),
        (504, "timeout", 11),
    ],
)
def test_agent_that_refuses_is_quoted(host: CniHost, agent: FakeAgent, status: int, word: str, code: int) -> None:
    agent.answers["/v1/attach"] = (status, {"error": "because of pool-1", "code": word})
    one = host.container()
    answer = one.call("ADD", one.conf())
    assert answer.code == code
    assert answer.document is not None
    assert answer.document["msg"] == "because of pool-1"
    assert agent.asked("/v1/detach") == []


def test_agent_that_is_no_agent_is_an_error_document(host: CniHost, agent: FakeAgent) -> None:
    agent.answers["/v1/attach"] = b"SSH-2.0-OpenSSH\r\n"
    one = host.container()
    answer = one.call("ADD", one.conf(agent_timeout=0.2))
    assert answer.code == 11
    assert "no Felix agent" in str(answer.document)


def test_check_lists_what_differs(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    conf = one.conf()
    result = one.add(conf)
    agent.answers["/v1/check"] = (409, {"error": "x", "code": "differs", "differences": ["eth0: mtu", "no route"]})
    answer = one.call("CHECK", conf | {"prevResult": result})
    assert answer.code == 103
    assert answer.document is not None
    assert answer.document["details"] == "eth0: mtu\nno route"


def test_gc_that_fails_in_part_says_so(host: CniHost, agent: FakeAgent) -> None:
    agent.answers["/v1/gc"] = (200, {"detached": [], "released": [], "failures": ["c7/eth0: busy"]})
    one = host.container()
    answer = one.call("GC", one.conf() | {"cni.dev/valid-attachments": []})
    assert answer.code == 100
    assert "c7/eth0: busy" in str(answer.document)


def test_status_of_an_agent_that_is_not_ready_says_why(host: CniHost, agent: FakeAgent) -> None:
    agent.answers["/v1/ready-to-attach"] = (503, {"error": "etcd is away", "code": "unavailable"})
    one = host.container()
    for plugin in ("felix-cni", "felix-ipam"):
        answer = one.call("STATUS", one.conf(), plugin=plugin)
        assert answer.code == 50
        assert "etcd is away" in str(answer.document)


def test_allocation_that_was_cut_off_is_undone_before_it_is_repeated(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    conf = one.conf(type="bridge")
    agent.answers["/v1/ipam/allocate"] = [DROP]
    one.add(conf, plugin="felix-ipam")
    assert len(agent.holders) == 1
    assert len(agent.asked("/v1/ipam/release")) == 1
    one.succeed("DEL", conf, plugin="felix-ipam")
    assert agent.holders == {}


def test_addresses_of_felix_ipam_are_marked_as_such(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    one.add(one.conf(type="bridge"), plugin="felix-ipam")
    ((_, attributes),) = agent.holders.values()
    assert attributes["felix.use"] == "ipam-only"
    assert attributes["felix.container"] == one.container


def test_addresses_under_a_handle_that_names_share_stay_with_their_container(host: CniHost, agent: FakeAgent) -> None:
    """Container x.y of network n and container y of network n.x have one handle."""
    one, other = host.container("x.y"), host.container("y")
    kept = one.conf(type="bridge", name="n")
    one.add(kept, plugin="felix-ipam")
    foreign = other.conf(type="bridge", name="n.x")
    assert other.call("ADD", foreign, plugin="felix-ipam").code == 101
    other.succeed("DEL", foreign, plugin="felix-ipam")
    one.succeed("CHECK", kept, plugin="felix-ipam")


def test_result_that_cannot_be_said_is_undone(host: CniHost, agent: FakeAgent) -> None:
    one = host.container()
    conf = one.conf("0.2.0")
    agent.answers["/v1/attach"] = (
        200,
        {"host_interface": "cali1", "host_mac": "", "interface": "eth0", "mac": "", "addresses": [], "gateways": []},
    )
    assert one.call("ADD", conf).code == 1
    assert len(agent.asked("/v1/detach")) == 1


def test_log_has_a_line_per_call(host: CniHost, agent: FakeAgent, tmp_path: Path) -> None:
    one = host.container()
    log = tmp_path / "cni.log"
    conf = one.conf(log_file_path=str(log))
    one.add(conf)
    agent.answers["/v1/detach"] = (500, {"error": "two\nlines", "code": "internal"})
    one.call("DEL", conf)
    first, second = log.read_text().splitlines()
    assert f"INFO felix-cni ADD net1 {one.container}/eth0" in first
    assert "ERROR felix-cni DEL" in second
    assert "failed with 100: two lines" in second
    one.call("DEL", conf | {"log_level": "none"})
    assert len(log.read_text().splitlines()) == 2
    one.call("DEL", conf | {"log_file_max_size": 0.0001})
    assert not log.exists()
    assert len((tmp_path / "cni.log.1").read_text().splitlines()) == 3


def test_log_that_cannot_be_written_is_no_failure(host: CniHost, tmp_path: Path) -> None:
    one = host.container()
    one.add(one.conf(log_file_path=str(tmp_path / "no" / "such" / "folder")))


def test_container_namespace_that_is_none_is_refused(host: CniHost, tmp_path: Path) -> None:
    one = host.container()
    missing = one.call("ADD", one.conf(), variables={"CNI_NETNS": str(tmp_path / "none")})
    assert missing.code == 8
    a_file = tmp_path / "file"
    a_file.write_text("")
    assert one.call("ADD", one.conf(), variables={"CNI_NETNS": str(a_file)}).code == 8
    own = {"CNI_NETNS": f"/run/netns/{host.namespace}"}
    assert one.call("ADD", one.conf(), variables=own).code == 8
    assert one.call("DEL", one.conf(), variables=own).code == 8
    assert one.call("DEL", one.conf(), variables={"CNI_NETNS": str(tmp_path / "none")}).is_silent_success


def test_runtime_without_any_variable_learns_what_this_is(folder: str) -> None:
    everything = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "PATH")
    for name in ("felix-cni", "felix-ipam"):
        answer = Runtime((folder,)).call("", None, without=everything, plugin=name)
        assert answer.is_silent_success
        assert "CNI protocol versions supported: 0.1.0, 0.2.0" in answer.stderr


def test_version_is_answered_without_reading_stdin(folder: str) -> None:
    for name in ("felix-cni", "felix-ipam"):
        everything = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "PATH")
        answer = Runtime((folder,)).call("VERSION", b"{no json", without=everything, plugin=name)
        assert answer.document == {
            "cniVersion": "1.1.0",
            "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        }


@pytest.mark.parametrize(
    ("command", "version", "code"),
    [
        ("CHECK", "0.3.1", 1),
        ("GC", "1.0.0", 1),
        ("STATUS", "1.0.0", 1),
        ("ADD", "1.2.0", 1),
        ("DEL", "0.0.1", 1),
    ],
)
def test_verb_or_version_that_does_not_fit_is_refused(host: CniHost, command: str, version: str, code: int) -> None:
    one = host.container()
    answer = one.call(command, one.conf(version))
    assert answer.code == code, answer.describe()
    assert answer.document is not None
    assert answer.document["cniVersion"] == version


def test_checks_come_in_the_order_of_the_reference(host: CniHost) -> None:
    """Environment, decoding, network name, container, interface, version: the first that fails is told."""
    one = host.container()
    bad = {"CNI_CONTAINERID": "/", "CNI_IFNAME": "a/b"}
    assert one.call("ADD", b"", without=["CNI_IFNAME"]).code == 4
    assert one.call("ADD", b"", variables=bad).code == 6
    assert one.call("ADD", b'{"cniVersion": "9.0.0"}', variables=bad).code == 7
    named = b'{"cniVersion": "9.0.0", "name": "n"}'
    container = one.call("ADD", named, variables=bad)
    assert "containerID" in str(container.document)
    interface = one.call("ADD", named, variables={"CNI_IFNAME": "a/b"})
    assert "interface name" in str(interface.document)
    assert one.call("ADD", named).code == 1


def test_configuration_list_is_refused_with_a_reason(host: CniHost) -> None:
    one = host.container()
    answer = one.call(
        "ADD", {"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "felix-cni"}]}, plugin="felix-cni"
    )
    assert answer.code == 7
    assert "list" in str(answer.document)


def test_configuration_that_has_no_end_is_refused(host: CniHost) -> None:
    one = host.container()
    assert one.call("ADD", b'{"name": "' + b"x" * 2_000_000).code == 5


def test_executable_works_as_a_link(folder: str, tmp_path: Path) -> None:
    (tmp_path / "felix-cni").symlink_to(Path(folder) / "felix-cni")
    answer = Runtime((str(tmp_path),)).call("VERSION", None)
    assert answer.is_success
