"""What forbids writing a manifest, and what only warns."""

from __future__ import annotations

import pytest

from felix.model.validate import judge, validate

Document = dict[str, object]


def manifest(kind: str, spec: object, name: str = "a", **metadata: object) -> Document:
    return {
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def explain(document: object) -> list[str]:
    return [f"{problem.field}: {problem.reason}" for problem in validate(document)]


GOOD: list[Document] = [
    manifest("GlobalNetworkPolicy", {"selector": "a == 'b'", "ingress": [{"action": "Allow", "protocol": 6}]}),
    manifest("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "ingress": [{"action": "Deny"}]}),
    manifest("NetworkPolicy", {"types": ["Ingress", "Egress"]}, namespace="prod"),
    manifest("StagedNetworkPolicy", {"stagedAction": "Learn"}),
    manifest("Profile", {"labelsToApply": {"a": "b"}, "egress": [{"action": "Allow"}]}, name="kns.a_B"),
    manifest("Tier", {"order": 10, "defaultAction": "Pass"}),
    manifest("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "CrossSubnet", "vxlanMode": "Never"}),
    manifest("HostEndpoint", {"node": "h", "interfaceName": "*"}),
    manifest("HostEndpoint", {"node": "h", "expectedIPs": ["10.0.0.1"]}),
    manifest("BGPPeer", {"peerIP": "10.0.0.1", "asNumber": "64512"}),
    manifest("BGPPeer", {"nodeSelector": "all()", "peerSelector": "rr == 'true'"}),
    manifest("BGPConfiguration", {"listenPort": 1179}, name="node.h"),
    manifest("FelixConfiguration", {"logSeverityScreen": "Info"}, name="default"),
    manifest("NetworkSet", {"nets": ["10.0.0.0/8", "fd00::/8"]}),
    manifest("Node", {"bgp": {"ipv4Address": "10.0.0.1/24"}}, finalizers=["x"], ownerReferences=[{}]),
    {**manifest("Tier", {}), "status": {"conditions": []}},
]


@pytest.mark.parametrize("document", GOOD, ids=lambda document: str(document["kind"]))
def test_good_manifest_has_no_problem(document: Document) -> None:
    assert explain(document) == []
    assert judge(document).record is not None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (7, ": expected a mapping with apiVersion, kind, metadata and spec"),
        ({}, "apiVersion: expected projectcalico.org/v3"),
        (manifest("GlobalNetworkPolicie", {}), "kind: unknown kind; did you mean GlobalNetworkPolicy?"),
        (manifest("CalicoNodeStatus", {}), "kind: Felix has no resources of this kind: it is not supported yet"),
        (manifest("Tier", {}, name="A"), "metadata.name: expected at most 253 of a-z 0-9 . -, "),
        (manifest("Tier", {}, name=""), "metadata.name: is missing; expected text"),
        (manifest("Tier", {}, namespace="x"), "metadata.namespace: things of kind Tier are in no namespace"),
        (manifest("Tier", {}, label={}), "metadata.label: unknown field; did you mean labels?"),
        (manifest("Tier", 7), "spec: expected a mapping"),
        (manifest("Tier", {"ordr": 1}), "spec.ordr: unknown field; did you mean order?"),
        (manifest("Tier", {"defaultAction": "Pass"}, name="default"), "spec.defaultAction: the tier default always"),
        (manifest("Tier", {}, name="kube-admin"), "spec.defaultAction: the tier kube-admin always ends in Pass"),
        (manifest("Tier", {}, labels={"a b": "c"}), "metadata.labels[a b]: expected a label like role"),
        (
            manifest("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", "source": {"net": []}}]}),
            "spec.ingress[0].source.net: unknown field; did you mean nets?",
        ),
        (
            manifest("GlobalNetworkPolicy", {"preDNAT": True, "doNotTrack": True, "applyOnForward": True}),
            "spec.preDNAT: preDNAT and doNotTrack exclude each other",
        ),
        (
            manifest("GlobalNetworkPolicy", {"doNotTrack": True}),
            "spec.applyOnForward: doNotTrack needs applyOnForward: true",
        ),
        (
            manifest("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, "types": ["Egress"]}),
            "spec.types: a preDNAT policy is for ingress only",
        ),
        (
            manifest("NetworkPolicy", {"types": ["Ingress", "Ingress"]}),
            "spec.types: expected each of Ingress and Egress at most once",
        ),
        (
            manifest("NetworkPolicy", {"egress": [{"action": "Allow", "ipVersion": 6, "protocol": "ICMP"}]}),
            "spec.egress[0].protocol: this protocol does not exist in IPv6",
        ),
        (
            manifest("Profile", {"egress": [{"action": "Deny", "ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}]}),
            "spec.egress[0].source.nets[0]: the rule is for IPv6 only",
        ),
        (manifest("IPPool", {}), "spec.cidr: is missing; expected text"),
        (
            manifest("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"}),
            "spec.vxlanMode: ipipMode and vxlanMode exclude each other",
        ),
        (manifest("IPPool", {"cidr": "fd00::/64", "ipipMode": "Always"}), "spec.ipipMode: IPIP carries IPv4 only"),
        (manifest("IPPool", {"cidr": "10.0.0.1/16"}), "spec.cidr: has bits behind its prefix length"),
        (manifest("IPPool", {"cidr": "10.0.0.0/16", "blockSize": 33}), "spec.blockSize: expected a block size from 20"),
        (manifest("IPPool", {"cidr": "127.0.0.0/16"}), "spec.cidr: overlaps with 127.0.0.0/8"),
        (manifest("HostEndpoint", {"node": "h"}), "spec.interfaceName: is missing; a host endpoint needs it"),
        (
            manifest("HostEndpoint", {"node": "h", "interfaceName": "eth0",
                                      "ports": [{"name": "80", "port": 80, "protocol": "TCP"}]}),
            "spec.ports[0].name: expected a name",
        ),
        (
            manifest("HostEndpoint", {"node": "h", "interfaceName": "eth0",
                                      "ports": [{"name": "ping", "port": 8, "protocol": "ICMP"}]}),
            "spec.ports[0].protocol: expected TCP, UDP, SCTP or UDPLite",
        ),
        (
            manifest("BGPPeer", {"node": "a", "nodeSelector": "all()", "peerIP": "10.0.0.1", "asNumber": 1}),
            "spec.node: node and nodeSelector exclude each other",
        ),
        (manifest("BGPPeer", {"node": "a"}), "spec.peerIP: is missing; a peer needs peerIP, peerSelector"),
        (
            manifest("BGPConfiguration", {"asNumber": 64512}, name="node.h"),
            "spec.asNumber: can only be set in BGPConfiguration default",
        ),
        (
            manifest("WorkloadEndpoint", {"node": "a-b", "orchestrator": "cni", "containerID": "c", "endpoint": "eth0",
                                          "interfaceName": "cali1"}),
            "metadata.name: expected a--b-cni-c-eth0: node, orchestrator, workload, endpoint, dashes doubled",
        ),
        (manifest("FelixConfiguration", {"healthPort": 99999}, name="default"), "spec.healthPort: give a whole number"),
        (
            manifest("FelixConfiguration", {"healthPrt": 1}, name="default"),
            "spec.healthPrt: there is no such setting; did you mean",
        ),
        (manifest("ClusterInformation", {}), "metadata.name: expected default; there is only one"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_manifest_is_refused_with_field_and_remedy(document: object, expected: str) -> None:
    assert explain(document)[0].startswith(expected)


def test_all_faults_of_a_document_are_told_at_once() -> None:
    rules = [{"action": "allow"}, {"action": "Deny", "protocol": []}]
    document = manifest("GlobalNetworkPolicy", {"order": "1", "ingress": rules, "tear": 1}, name="B")
    assert [problem.field for problem in validate(document)] == [
        "spec.tear",
        "metadata.name",
        "spec.order",
        "spec.ingress[0].action",
        "spec.ingress[1].protocol",
    ]


def test_what_calico_knows_and_felix_cannot_enforce_is_a_warning() -> None:
    rule = {
        "action": "Allow",
        "protocol": "TCP",
        "http": {"methods": ["GET"]},
        "destination": {"ports": ["http"], "services": {"name": "a"}},
    }
    judgement = judge(manifest("GlobalNetworkPolicy", {"ingress": [rule], "serviceAccountSelector": "all()"}))
    assert judgement.errors == []
    assert [flaw.path[-1] for flaw in judgement.warnings] == ["http", "services", "serviceAccountSelector"]
    assert all("cannot be enforced" in flaw.reason for flaw in judgement.warnings)


def test_pool_whose_mode_nobody_heeds_is_a_warning_with_what_to_do() -> None:
    judgement = judge(manifest("IPPool", {"cidr": "10.0.0.0/16", "ipipMode": "Always"}))
    assert judgement.errors == []
    (warning,) = judgement.warnings
    assert warning.path == ("spec", "ipipMode")
    assert "has no effect" in warning.reason
    assert "use vxlanMode" in warning.reason


def test_judging_does_not_change_the_document() -> None:
    document = manifest("GlobalNetworkPolicy", {"ingress": [{"action": "Allow", "http": {}}], "order": None})
    before = repr(document)
    judge(document)
    assert repr(document) == before


def test_namespace_that_is_no_text_is_refused_for_a_kind_that_has_none() -> None:
    document = {"apiVersion": "projectcalico.org/v3", "kind": "BGPConfiguration", "spec": {}}
    (problem,) = validate({**document, "metadata": {"name": "default", "namespace": False}})
    assert problem.field == "metadata.namespace"
