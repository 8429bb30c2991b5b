"""The contract of net-modules, as tests that hold for felix-mesos on any agent: the small one in memory, a real one.

A scene says where the plug-in asks, and how to look at what came of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.launchers import MODULE_BY_NAME, ROOT, render_launcher

Labels = list[dict[str, str]] | dict[str, Any]
NAME = "felix-mesos"


@dataclass(frozen=True)
class Said:
    """How a call of the plug-in ended. answer: decoded; log: standard error."""

    answer: dict[str, Any]
    code: int
    log: str

    @property
    def error(self) -> Any:
        """The answer's error, None for none."""
        return self.answer["error"]


@dataclass(frozen=True)
class Launch:
    """A container that a test launches. pid: a process in its network namespace."""

    uid: str
    container: str
    pid: int


def call_plugin(request: object, environment: Mapping[str, str], prefix: Sequence[str] = (), **args: Any) -> Said:
    """Calls the executable that `make setup` writes, as net-modules does; its answer is one line of JSON."""
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    text = render_launcher(MODULE_BY_NAME[NAME], os.path.realpath(sys.executable), str(ROOT))
    flags, _, body = text.removeprefix("#!").partition("\n")
    done = subprocess.run(
        [*prefix, *flags.split(), "-c", body],
        input=data,
        capture_output=True,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin:/usr/sbin"), **environment},
        timeout=60,
        check=False,
        **args,
    )
    assert done.stdout.endswith(b"\n")
    assert done.stdout.count(b"\n") == 1
    said = Said(json.loads(done.stdout), done.returncode, done.stderr.decode())
    assert said.code == (0 if said.error is None else 1), said
    return said


class Scene(ABC):
    """A host with an agent. static: free addresses of its pools that are never chosen before others, of each family."""

    static4: Sequence[str]
    static6: Sequence[str]

    @abstractmethod
    def call(self, command: str, **args: Any) -> Said:
        """Calls the plug-in with a verb."""

    @abstractmethod
    def launch(self) -> Launch:
        """Returns a new launch, with a namespace."""

    @abstractmethod
    def held(self) -> dict[str, str]:
        """Returns who holds which address: handles by address."""

    @abstractmethod
    def attached(self) -> dict[str, set[str]]:
        """Returns the addresses of each container that is attached, by container."""

    @abstractmethod
    def hold_for_others(self, address: str) -> None:
        """A container of another orchestrator has that address on this host."""

    def held_by(self, launch: Launch) -> set[str]:
        """Returns the addresses that a launch holds."""
        return {address for address, handle in self.held().items() if handle == launch.uid}

    def allocate(self, launch: Launch, ipv4: int, ipv6: int = 0, **args: Any) -> Said:
        """Calls `allocate`."""
        return self.call("allocate", uid=launch.uid, hostname="h1", num_ipv4=ipv4, num_ipv6=ipv6, **args)

    def reserve(self, launch: Launch, ipv4: Sequence[str] = (), ipv6: Sequence[str] = ()) -> Said:
        """Calls `reserve`, without the lists that are empty, as net-modules does."""
        lists = {name: list(found) for name, found in (("ipv4_addrs", ipv4), ("ipv6_addrs", ipv6)) if found}
        return self.call("reserve", uid=launch.uid, hostname="h1", **lists)

    def isolate(self, launch: Launch, addresses: Sequence[str], groups: Sequence[str] = (), **args: Any) -> Said:
        """Calls `isolate`, without the lists that are empty, as net-modules does."""
        lists = {
            "ipv4_addrs": [address for address in addresses if ":" not in address],
            "ipv6_addrs": [address for address in addresses if ":" in address],
            "netgroups": list(groups),
        }
        sent = {name: found for name, found in lists.items() if found}
        return self.call("isolate", hostname="h1", container_id=launch.container, pid=launch.pid, **sent, **args)

    def cleanup(self, launch: Launch) -> Said:
        """Calls `cleanup`."""
        return self.call("cleanup", hostname="h1", container_id=launch.container)


def new_launch(pid: int) -> Launch:
    """Returns a launch with new ids."""
    return Launch(str(uuid.uuid4()), str(uuid.uuid4()), pid)


class NetModulesContract:
    """Tests for a class that has a fixture `scene`."""

    def test_allocate_of_both_families_holds_them_under_the_uid(self, scene: Scene) -> None:
        launch = scene.launch()
        said = scene.allocate(launch, 2, 1)
        assert (len(said.answer["ipv4"]), len(said.answer["ipv6"]), said.error) == (2, 1, None)
        assert scene.held_by(launch) == {*said.answer["ipv4"], *said.answer["ipv6"]}

    def test_allocate_with_a_static_label_takes_those_and_chooses_the_rest(self, scene: Scene) -> None:
        launch = scene.launch()
        static = scene.static4[:2]
        said = scene.allocate(launch, 3, labels=[{"key": "ipv4_addrs", "value": repr(list(static))}])
        assert said.error is None
        assert said.answer["ipv4"][1:] == list(static)
        assert scene.held_by(launch) == set(said.answer["ipv4"])

    def test_reserve_of_both_families_holds_them_under_the_uid(self, scene: Scene) -> None:
        launch = scene.launch()
        assert scene.reserve(launch, scene.static4[:2], scene.static6[:1]).answer == {"error": None}
        assert scene.held_by(launch) == {*scene.static4[:2], *scene.static6[:1]}

    def test_reserve_of_a_taken_address_gets_none_and_the_holder_keeps_it(self, scene: Scene) -> None:
        first, second = scene.launch(), scene.launch()
        assert scene.reserve(first, scene.static4[1:2]).error is None
        assert scene.reserve(second, scene.static4[:3]).error == f"IP '{scene.static4[1]}' already in use."
        assert scene.held_by(first) == {scene.static4[1]}
        assert scene.held_by(second) == set()

    def test_defect_pool_not_found_reserve_outside_all_pools_is_an_error_in_json_and_gets_none(
        self, scene: Scene
    ) -> None:
        launch = scene.launch()
        assert "203.0.113.9" in scene.reserve(launch, [scene.static4[0], "203.0.113.9"]).error
        assert scene.held_by(launch) == set()

    def test_defect_1_allocate_that_fails_gives_back_what_was_reserved(self, scene: Scene) -> None:
        other, launch = scene.launch(), scene.launch()
        assert scene.reserve(other, scene.static4[:1]).error is None
        assert scene.reserve(launch, scene.static4[1:2]).error is None
        said = scene.allocate(launch, 1, labels={"ipv4_addrs": [scene.static4[0]]})
        assert said.error == f"IP '{scene.static4[0]}' already in use."
        assert scene.held_by(launch) == set()
        assert scene.held_by(other) == {scene.static4[0]}

    def test_release_by_uid_gives_back_all_and_may_be_repeated(self, scene: Scene) -> None:
        launch, other = scene.launch(), scene.launch()
        assert scene.allocate(launch, 2, 1).error is None
        assert scene.allocate(other, 1).error is None
        for _ in range(2):
            assert scene.call("release", uid=launch.uid).answer == {"error": None}
        assert scene.held_by(launch) == set()
        assert len(scene.held_by(other)) == 1

    def test_release_of_an_unknown_uid_is_no_error(self, scene: Scene) -> None:
        assert scene.call("release", uid=str(uuid.uuid4())).answer == {"error": None}

    def test_release_by_ips_is_of_both_families_and_tolerates_free_ones(self, scene: Scene) -> None:
        launch = scene.launch()
        said = scene.allocate(launch, 2, 1)
        kept, *gone = said.answer["ipv4"]
        assert scene.call("release", ips=[*gone, *said.answer["ipv6"], scene.static4[4]]).answer == {"error": None}
        assert scene.held_by(launch) == {kept}

    def test_release_by_ips_leaves_what_other_orchestrators_hold(self, scene: Scene) -> None:
        scene.hold_for_others(scene.static4[5])
        before = scene.held()
        assert scene.static4[5] in before
        assert scene.call("release", ips=[scene.static4[5]]).answer == {"error": None}
        assert scene.held() == before

    def test_defect_2_3_ipv6_addresses_that_were_dropped_are_the_containers(self, scene: Scene) -> None:
        launch = scene.launch()
        said = scene.allocate(launch, 1, 1)
        addresses = [*said.answer["ipv4"], *said.answer["ipv6"]]
        assert scene.isolate(launch, addresses, ["star-1"]).answer == {"error": None}
        assert scene.attached()[launch.container] == set(addresses)

    def test_defect_2_3_isolate_that_was_not_idempotent_may_be_repeated(self, scene: Scene) -> None:
        launch = scene.launch()
        addresses = scene.allocate(launch, 1).answer["ipv4"]
        for _ in range(2):
            assert scene.isolate(launch, addresses, ["star-1"]).answer == {"error": None}
        assert scene.attached()[launch.container] == set(addresses)

    def test_isolate_with_other_addresses_is_already_configured(self, scene: Scene) -> None:
        launch = scene.launch()
        first, second = scene.allocate(launch, 2).answer["ipv4"]
        assert scene.isolate(launch, [first]).error is None
        said = scene.isolate(launch, [second])
        assert said.error == "This container has already been configured with Calico Networking."
        assert scene.attached()[launch.container] == {first}

    def test_isolate_of_another_process_is_already_configured(self, scene: Scene) -> None:
        launch = scene.launch()
        addresses = scene.allocate(launch, 1).answer["ipv4"]
        assert scene.isolate(launch, addresses).error is None
        said = scene.isolate(Launch(launch.uid, launch.container, scene.launch().pid), addresses)
        assert said.error == "This container has already been configured with Calico Networking."
        assert scene.held_by(launch) == set(addresses)

    def test_isolate_without_groups_is_allowed(self, scene: Scene) -> None:
        launch = scene.launch()
        assert scene.isolate(launch, scene.allocate(launch, 1).answer["ipv4"]).answer == {"error": None}
        assert launch.container in scene.attached()

    def test_defect_2_5_cleanup_that_was_not_idempotent_may_be_repeated(self, scene: Scene) -> None:
        launch = scene.launch()
        addresses = scene.allocate(launch, 1).answer["ipv4"]
        assert scene.isolate(launch, addresses).error is None
        for _ in range(2):
            assert scene.cleanup(launch).answer == {"error": None}
        assert launch.container not in scene.attached()
        assert scene.held_by(launch) == set()

    def test_cleanup_of_an_unknown_container_is_no_error(self, scene: Scene) -> None:
        assert scene.cleanup(scene.launch()).answer == {"error": None}

    def test_defect_2_cleanup_needs_nothing_that_the_module_remembers(self, scene: Scene) -> None:
        launch = scene.launch()
        addresses = scene.allocate(launch, 1, 1).answer
        assert scene.isolate(launch, [*addresses["ipv4"], *addresses["ipv6"]]).error is None
        assert scene.cleanup(launch).error is None
        assert scene.held_by(launch) == set()

    def test_defect_3_address_released_before_cleanup_has_one_owner_at_any_time(self, scene: Scene) -> None:
        former, latter = scene.launch(), scene.launch()
        assert scene.reserve(former, scene.static4[3:4]).error is None
        assert scene.isolate(former, scene.static4[3:4]).error is None
        for call in ({"ips": [scene.static4[3]]}, {"uid": former.uid}):
            assert scene.call("release", **call).error is None
            assert scene.reserve(latter, scene.static4[3:4]).error == f"IP '{scene.static4[3]}' already in use."
        assert scene.cleanup(former).error is None
        assert scene.reserve(latter, scene.static4[3:4]).error is None
        assert scene.cleanup(former).error is None
        assert scene.held_by(latter) == {scene.static4[3]}

    def test_whole_life_of_a_container_leaves_nothing(self, scene: Scene) -> None:
        before, launch = scene.held(), scene.launch()
        assert scene.reserve(launch, scene.static4[:1]).error is None
        addresses = [scene.static4[0], *scene.allocate(launch, 1).answer["ipv4"]]
        assert scene.isolate(launch, addresses, ["a", "b"]).error is None
        assert scene.call("release", ips=addresses).error is None
        assert scene.cleanup(launch).error is None
        assert scene.held() == before
        assert launch.container not in scene.attached()

    def test_two_launches_that_want_the_same_static_address_the_second_fails_alone(self, scene: Scene) -> None:
        first, second = scene.launch(), scene.launch()
        assert scene.reserve(first, scene.static4[:1]).error is None
        assert scene.reserve(second, scene.static4[:1]).error == f"IP '{scene.static4[0]}' already in use."
        assert scene.isolate(first, scene.static4[:1]).error is None
        assert scene.held_by(second) == set()
