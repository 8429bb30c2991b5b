"""What the agent takes from stored bytes: problems that begin and end, identities, settings, the built-in profile."""

from __future__ import annotations

import json

from felix.calc.desired import Action
from felix.intake import EndpointIdentity, Intake
from felix.model.keys import ResourceKey, format_key

ENDPOINT = ResourceKey("WorkloadEndpoint", "prod", "h1-cni-web-eth0")
PROFILE = ResourceKey("Profile", "", "projectcalico-default-allow")


def stored(kind: str, spec: dict[str, object]) -> bytes:
    return json.dumps({"kind": kind, "metadata": {}, "spec": spec}).encode()


def endpoint(node: str = "h1") -> bytes:
    spec: dict[str, object] = {
        "orchestrator": "cni",
        "node": node,
        "workload": "web",
        "endpoint": "eth0",
        "interfaceName": "cali1",
        "ipNetworks": ["10.65.0.1/32"],
        "profiles": [PROFILE.name],
    }
    return stored("WorkloadEndpoint", spec)


def test_problem_of_a_bad_object_is_told_once_and_its_end_too() -> None:
    intake = Intake("h1")
    path = format_key(ENDPOINT)
    assert intake.on_update(path, b"{", 1) == "WorkloadEndpoint"
    intake.graph.flush()
    (problem,) = intake.pop_problems()[path]
    assert path in str(problem)
    intake.on_update(path, b"{", 2)
    intake.graph.flush()
    assert intake.pop_problems() == {}
    intake.on_update(path, endpoint(), 3)
    intake.graph.flush()
    assert intake.pop_problems() == {path: ()}


def test_endpoint_of_this_host_is_remembered_until_it_leaves() -> None:
    intake = Intake("h1")
    intake.on_update(format_key(ENDPOINT), endpoint(), 1)
    assert intake.identities == {ENDPOINT: EndpointIdentity("cni", "prod", "web", "eth0")}
    intake.on_update(format_key(ENDPOINT), endpoint("h2"), 2)
    assert intake.identities == {}


def test_default_allow_profile_is_there_though_nobody_stores_it() -> None:
    intake = Intake("h1")
    intake.on_update(format_key(ENDPOINT), endpoint(), 1)
    policy = intake.graph.flush().policies[PROFILE]
    assert policy is not None
    assert [rule.action for rule in (*policy.ingress, *policy.egress)] == [Action.ALLOW, Action.ALLOW]
    intake.on_update(format_key(PROFILE), None, 2)
    assert not intake.graph.flush()


def test_configurations_and_the_ready_flag_are_kept_for_the_agent() -> None:
    intake = Intake("h1")
    configuration = ResourceKey("FelixConfiguration", "", "default")
    intake.on_update(format_key(configuration), stored("FelixConfiguration", {"logSeverityScreen": "Debug"}), 1)
    assert intake.configurations == {"default": {"logSeverityScreen": "Debug"}}
    assert intake.has_new_configuration
    information = format_key(ResourceKey("ClusterInformation", "", "default"))
    intake.on_update(information, stored("ClusterInformation", {"datastoreReady": False}), 2)
    assert not intake.is_datastore_ready
    intake.on_update(information, None, 3)
    assert intake.is_datastore_ready


def test_configuration_that_becomes_unreadable_goes_on_to_say_what_it_said() -> None:
    intake = Intake("h1")
    configuration = format_key(ResourceKey("FelixConfiguration", "", "default"))
    information = format_key(ResourceKey("ClusterInformation", "", "default"))
    intake.on_update(configuration, stored("FelixConfiguration", {"logSeverityScreen": "Debug"}), 1)
    intake.on_update(information, stored("ClusterInformation", {"datastoreReady": False}), 2)
    intake.on_update(configuration, b"{", 3)
    intake.on_update(information, b"{", 4)
    assert intake.configurations == {"default": {"logSeverityScreen": "Debug"}}
    assert not intake.is_datastore_ready
    intake.on_update(configuration, None, 5)
    assert intake.configurations == {}


def test_key_of_no_known_kind_is_ignored() -> None:
    assert Intake("h1").on_update("/calico/ipam/v2/handle/x", b"{", 1) == ""
