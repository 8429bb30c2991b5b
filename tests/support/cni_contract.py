"""What felix-cni and felix-ipam do for a runtime, on the fake agent and on the real one: each has a subclass."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.cni import VERSIONS, CniHost, Conf, Runtime

NEW = [version for version in VERSIONS if version >= "0.3.0"]


class CniContract:
    """Tests; a subclass has the fixture `host`."""

    @pytest.fixture
    def one(self, host: CniHost) -> Iterator[Runtime]:
        """A container; nothing of it is left on the host afterwards."""
        runtime = host.container()
        yield runtime
        runtime.succeed("DEL", runtime.conf())

    @pytest.mark.parametrize("version", NEW)
    def test_add_answers_in_the_asked_version_and_del_is_silent(self, one: Runtime, version: str) -> None:
        conf = one.conf(version)
        result = one.add(conf)
        assert result["cniVersion"] == version
        outside, inside = result["interfaces"]
        assert "sandbox" not in outside
        assert (inside["name"], inside["sandbox"]) == ("eth0", one.netns)
        assert all(len(each["mac"]) == 17 for each in (outside, inside))
        (ip,) = result["ips"]
        assert ip["address"].endswith("/32")
        assert ip["interface"] == 1
        assert ip["gateway"] == "169.254.1.1"
        assert result["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
        one.succeed("DEL", conf | ({"prevResult": result} if version >= "0.4.0" else {}))
        one.succeed("DEL", conf)

    @pytest.mark.parametrize("version", [None, "0.1.0", "0.2.0"])
    def test_add_in_an_old_version_answers_one_address_per_family(self, one: Runtime, version: str | None) -> None:
        conf = one.conf(version, ipam={"type": "felix-ipam", "assign_ipv6": True}, dns={"nameservers": ["10.0.0.53"]})
        result = one.add(conf)
        assert result["cniVersion"] == version or "0.1.0"
        assert result["ip4"]["ip"].endswith("/32")
        assert result["ip4"]["routes"] == [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]
        assert result["ip6"]["ip"].endswith("/128")
        assert result["dns"] == {"nameservers": ["10.0.0.53"]}
        assert "interfaces" not in result

    def test_second_add_is_an_error_and_changes_nothing(self, one: Runtime) -> None:
        conf = one.conf()
        result = one.add(conf)
        again = one.call("ADD", conf)
        assert again.code == 101, again.describe()
        one.succeed("CHECK", conf | {"prevResult": result})

    def test_second_add_with_foreign_ipam_is_an_error_and_changes_nothing(self, one: Runtime, tmp_path: Path) -> None:
        conf = one.conf("1.0.0", ipam=_host_local(tmp_path))
        result = one.add(conf)
        again = one.call("ADD", conf)
        assert again.code == 101, again.describe()
        one.succeed("CHECK", conf | {"prevResult": result})
        one.succeed("DEL", conf)

    def test_del_without_namespace_and_previous_result_removes_all(self, host: CniHost, one: Runtime) -> None:
        conf = one.conf(runtimeConfig={"ips": [host.address]}, capabilities={"ips": True})
        one.add(conf)
        host.lose(one)
        one.succeed("DEL", conf, without=["CNI_NETNS"])
        other = host.container()
        other.add(other.conf(runtimeConfig={"ips": [host.address]}))
        other.succeed("DEL", other.conf())

    def test_requested_address_is_had_and_one_that_is_taken_fails_with_nothing_left(
        self, host: CniHost, one: Runtime
    ) -> None:
        result = one.add(one.conf(), variables={"CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAME=x;IP={host.address}"})
        assert result["ips"][0]["address"] == f"{host.address}/32"
        other = host.container()
        refused = other.call("ADD", other.conf(args={"cni": {"ips": [host.address]}}))
        assert refused.code == 101, refused.describe()
        assert host.address in str(refused.document)
        other.add(other.conf())
        other.succeed("DEL", other.conf())

    def test_args_win_over_cni_args(self, host: CniHost, one: Runtime) -> None:
        conf = one.conf(args={"cni": {"ips": [host.address]}})
        result = one.add(conf, variables={"CNI_ARGS": "IP=203.0.113.9"})
        assert result["ips"][0]["address"] == f"{host.address}/32"

    def test_requested_mac_is_had(self, one: Runtime) -> None:
        result = one.add(one.conf(), variables={"CNI_ARGS": "MAC=02:11:22:33:44:55"})
        assert result["interfaces"][1]["mac"] == "02:11:22:33:44:55"

    def test_mesos_agent_gets_an_old_result_for_a_nested_container(self, host: CniHost) -> None:
        """Six variables and nothing else; NetworkInfo in the configuration; DEL when the namespace is gone."""
        one = host.container("parent-1.child-2")
        labels = {"labels": [{"key": "DCOS_SPACE", "value": "/a/b/c"}]}
        info = {"name": "net1", "ip_addresses": [{"protocol": "IPv4"}], "labels": labels}
        conf = one.conf("0.2.0", args={"org.apache.mesos": {"network_info": info}})
        result = one.add(conf)
        assert result["ip4"]["ip"].endswith("/32")
        host.lose(one)
        one.succeed("DEL", conf, without=["CNI_NETNS"])
        one.succeed("DEL", conf, without=["CNI_NETNS"])

    def test_mesos_demands_an_address(self, host: CniHost, one: Runtime) -> None:
        info = {"name": "net1", "ip_addresses": [{"protocol": "IPv4", "ip_address": host.address}]}
        result = one.add(one.conf("0.1.0", args={"org.apache.mesos": {"network_info": info}}))
        assert result["ip4"]["ip"] == f"{host.address}/32"

    @pytest.mark.parametrize("version", ["0.2.0", "0.4.0", "1.0.0"])
    def test_host_local_assigns_and_gets_back(self, one: Runtime, tmp_path: Path, version: str) -> None:
        conf = one.conf(version, ipam=_host_local(tmp_path))
        result = one.add(conf)
        assert _address(result).startswith("10.77.0.")
        assert _address(result).endswith("/32")
        assert len(_leases(tmp_path)) == 1
        if version != "0.2.0":
            one.succeed("CHECK", conf | {"prevResult": result})
        one.succeed("DEL", conf)
        assert _leases(tmp_path) == []

    def test_static_assigns_what_the_configuration_says(self, one: Runtime) -> None:
        conf = one.conf("1.0.0", ipam={"type": "static", "addresses": [{"address": "10.78.0.9/24"}]})
        result = one.add(conf)
        assert _address(result) == "10.78.0.9/32"
        one.succeed("DEL", conf)

    def test_add_with_a_taken_address_of_foreign_ipam_fails_and_gives_it_back(
        self, host: CniHost, one: Runtime, tmp_path: Path
    ) -> None:
        static = one.conf("1.0.0", ipam={"type": "static", "addresses": [{"address": "10.77.0.2/24"}]})
        one.add(static)
        other = host.container()
        refused = other.call("ADD", other.conf("1.0.0", ipam=_host_local(tmp_path)))
        assert refused.code == 101, refused.describe()
        assert _leases(tmp_path) == []
        one.succeed("DEL", static)

    def test_foreign_ipam_that_is_missing_or_refuses_is_named(self, one: Runtime, tmp_path: Path) -> None:
        missing = one.call("ADD", one.conf(ipam={"type": "no-such-ipam"}))
        assert missing.code == 4
        assert "no-such-ipam" in str(missing.document)
        newer = one.call("ADD", one.conf("1.1.0", ipam=_host_local(tmp_path)))
        assert newer.code == 1, newer.describe()
        assert "host-local" in str(newer.document)
        bad = one.call("ADD", one.conf("1.0.0", ipam={"type": "host-local", "dataDir": str(tmp_path)}))
        assert not bad.is_success
        assert "host-local" in str(bad.document)

    def test_check_of_nothing_is_an_error(self, one: Runtime) -> None:
        answer = one.call("CHECK", one.conf())
        assert not answer.is_success
        assert one.container in str(answer.document)

    def test_check_with_a_result_of_another_container_is_an_error(self, one: Runtime) -> None:
        conf = one.conf()
        result = one.add(conf)
        one.succeed("CHECK", conf | {"prevResult": result})
        one.succeed("CHECK", conf)
        result["interfaces"][1]["sandbox"] = "/run/netns/another"
        assert one.call("CHECK", conf | {"prevResult": result}).code == 103

    def test_gc_removes_what_is_not_valid(self, host: CniHost, one: Runtime) -> None:
        kept, gone = host.container(), host.container()
        conf = one.conf(name="net-gc")
        result = kept.add(conf)
        gone.add(conf | {"runtimeConfig": {"ips": [host.address]}})
        foreign = one.conf()
        untouched = one.add(foreign)
        valid = [{"containerID": kept.container, "ifname": "eth0"}]
        one.succeed("GC", conf | {"cni.dev/valid-attachments": valid}, without=["CNI_CONTAINERID", "CNI_IFNAME"])
        kept.succeed("CHECK", conf | {"prevResult": result})
        one.succeed("CHECK", foreign | {"prevResult": untouched})
        assert not gone.call("CHECK", conf).is_success
        gone.add(conf | {"runtimeConfig": {"ips": [host.address]}})
        one.succeed("GC", conf | {"cni.dev/valid-attachments": None})
        assert not kept.call("CHECK", conf).is_success

    def test_status_of_a_ready_agent_is_silent(self, one: Runtime) -> None:
        one.succeed("STATUS", one.conf(), without=["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS"])

    def test_status_and_gc_leave_foreign_ipam_of_older_versions_alone(self, one: Runtime, tmp_path: Path) -> None:
        conf = one.conf(ipam=_host_local(tmp_path))
        one.succeed("STATUS", conf)
        one.succeed("GC", conf | {"cni.dev/valid-attachments": []})

    def test_configuration_for_another_node_is_refused(self, host: CniHost, one: Runtime) -> None:
        answer = one.call("ADD", one.conf(nodename="another"))
        assert answer.code == 7
        assert "another" in str(answer.document)
        one.add(one.conf(nodename="h1"))

    def test_plugins_behind_get_a_result_that_they_can_use(self, host: CniHost, one: Runtime) -> None:
        """Chained as a runtime does it: tuning behind ours, DEL in reverse order."""
        conf = one.conf("1.0.0")
        result = one.add(conf)
        tuning = one.conf("1.0.0", type="tuning", sysctl={"net.core.somaxconn": "500"}, prevResult=result)
        final = one.add(tuning)
        assert final["ips"] == result["ips"]
        one.succeed("DEL", tuning | {"prevResult": final})
        one.succeed("DEL", conf | {"prevResult": final})

    def test_add_behind_another_plugin_is_refused(self, one: Runtime) -> None:
        answer = one.call("ADD", one.conf(prevResult={"cniVersion": "1.1.0", "ips": []}))
        assert answer.code == 7
        assert "first" in str(answer.document)

    def test_add_of_many_at_once_gives_each_its_own(self, host: CniHost) -> None:
        containers = [host.container() for _ in range(6)]
        with ThreadPoolExecutor(6) as pool:
            results = list(pool.map(lambda each: each.add(each.conf()), containers))
            assert len({_address(result) for result in results}) == 6
            list(pool.map(lambda each: each.succeed("DEL", each.conf()), containers))

    # --- felix-ipam under plug-ins that make interfaces themselves ---

    def test_ipam_assigns_without_interfaces_and_gets_back(self, one: Runtime) -> None:
        conf = _foreign(one, "bridge", "1.1.0")
        result = one.add(conf, plugin="felix-ipam")
        assert "interfaces" not in result
        assert _address(result).endswith("/32")
        again = one.call("ADD", conf, plugin="felix-ipam")
        assert again.code == 101, again.describe()
        one.succeed("CHECK", conf | {"prevResult": result}, plugin="felix-ipam")
        one.succeed("STATUS", conf, plugin="felix-ipam")
        one.succeed("DEL", conf, plugin="felix-ipam")
        one.succeed("DEL", conf, plugin="felix-ipam", without=["CNI_NETNS"])
        assert one.call("CHECK", conf | {"prevResult": result}, plugin="felix-ipam").code == 103

    @pytest.mark.parametrize("version", ["0.1.0", "0.3.1", "1.0.0"])
    def test_ipam_answers_in_the_asked_version(self, one: Runtime, version: str) -> None:
        conf = _foreign(one, "bridge", version)
        conf["ipam"]["assign_ipv6"] = True
        result = one.add(conf, plugin="felix-ipam")
        assert result["cniVersion"] == version
        assert ("ip4" in result) == (version == "0.1.0")
        one.succeed("DEL", conf, plugin="felix-ipam")

    def test_ipam_fails_for_an_address_that_is_taken(self, host: CniHost, one: Runtime) -> None:
        conf = _foreign(one, "bridge", "1.0.0")
        variables = {"CNI_ARGS": f"IP={host.address}"}
        assert _address(one.add(conf, plugin="felix-ipam", variables=variables)) == f"{host.address}/32"
        other = host.container()
        refused = other.call("ADD", conf, plugin="felix-ipam", variables=variables)
        assert refused.code == 101, refused.describe()
        one.succeed("DEL", conf, plugin="felix-ipam")

    def test_ipam_gc_releases_what_is_not_valid(self, host: CniHost, one: Runtime) -> None:
        conf = _foreign(one, "bridge", "1.1.0") | {"name": "net-ipam-gc"}
        other = host.container()
        result = one.add(conf, plugin="felix-ipam")
        other.add(conf, plugin="felix-ipam")
        valid = [{"containerID": one.container, "ifname": "eth0"}]
        one.succeed("GC", conf | {"cni.dev/valid-attachments": valid}, plugin="felix-ipam")
        one.succeed("CHECK", conf | {"prevResult": result}, plugin="felix-ipam")
        assert other.call("CHECK", conf, plugin="felix-ipam").code == 103
        one.succeed("DEL", conf, plugin="felix-ipam")

    def test_ipam_needs_no_pool_for_the_gateway(self, host: CniHost, one: Runtime) -> None:
        subnet = ipaddress.ip_interface(f"{host.address}/2").network
        gateway = str(subnet[-2])
        conf = _foreign(one, "bridge", "1.0.0") | {"name": "net-far-gateway"}
        conf["ipam"] |= {"gateway": f"{gateway}/2"}
        result = one.add(conf, plugin="felix-ipam")
        assert (result["ips"][0]["gateway"], result["routes"][0]["gw"]) == (gateway, gateway)
        one.succeed("DEL", conf, plugin="felix-ipam")

    @pytest.mark.parametrize("kind", ["bridge", "ptp"])
    def test_ipam_under_a_foreign_plugin_makes_a_network_that_carries_packets(
        self, host: CniHost, one: Runtime, kind: str
    ) -> None:
        subnet = host.address.rpartition(".")[0]
        gateway = f"{subnet}.60"
        conf = _foreign(one, kind, "1.0.0") | {"name": f"net-{kind}"}
        length = 28 if kind == "bridge" else 24  # a host drops what goes to its blocks, but not to smaller subnets
        conf["ipam"] |= {"gateway": f"{gateway}/{length}"}
        conf |= {"bridge": "cnitest0", "isDefaultGateway": True} if kind == "bridge" else {}
        conf["args"] = {"cni": {"ips": [host.address]}}
        try:
            result = one.add(conf)
            assert _address(result) == f"{host.address}/{length}"
            taken = host.container()
            refused = taken.call("ADD", taken.conf(args={"cni": {"ips": [gateway]}}))
            assert refused.code == 101, refused.describe()
            one.succeed("CHECK", conf | {"prevResult": result})
            assert f"default via {gateway}" in host.execute(one, "ip", "route")
            host.execute(one, "ping", "-c", "1", "-W", "2", gateway)
        finally:
            one.succeed("DEL", conf)
            one.succeed("DEL", conf, plugin="felix-ipam", variables={"CNI_CONTAINERID": "gateway"})
            if kind == "bridge":
                host.execute_on_host("ip", "link", "delete", "cnitest0")
        assert one.call("CHECK", conf, plugin="felix-ipam").code == 103


def _foreign(one: Runtime, kind: str, version: str) -> Conf:
    return one.conf(version, type=kind, ipam={"type": "felix-ipam"})


def _host_local(directory: Path) -> Conf:
    return {"type": "host-local", "dataDir": str(directory), "subnet": "10.77.0.0/24"}


def _leases(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("10.77.*")]


def _address(result: Conf) -> str:
    entry: Any = result["ip4"]["ip"] if "ip4" in result else result["ips"][0]["address"]
    return str(entry)
