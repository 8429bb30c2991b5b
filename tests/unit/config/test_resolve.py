"""Several sources become one set of settings: precedence, provenance, bad values, unknown names, changes."""

import pytest

from felix.config.known import REASON_BY_LOWERED_NAME
from felix.config.resolve import DEFAULT, Changes, Kind, Source, datastore_sources, find_changes, resolve
from felix.config.table import SETTING_BY_LOWERED_NAME, SETTINGS, Settings


def environment(**variables: str) -> Source:
    return Source(Kind.ENVIRONMENT, "environment", {f"FELIX_{name}": value for name, value in variables.items()})


def file(**lines: str) -> Source:
    return Source(Kind.FILE, "/etc/calico/felix.cfg", lines)


def resource(name: str = "default", **spec: object) -> Source:
    return Source(Kind.DATASTORE, f"FelixConfiguration {name}", spec)


def test_resolve_nothing_given_is_the_defaults() -> None:
    resolved = resolve(())
    assert resolved.settings == Settings()
    assert set(resolved.origin_by_attribute.values()) == {DEFAULT}
    assert resolved.problems == resolved.notices == ()


def test_resolve_stronger_source_wins_and_is_named() -> None:
    resolved = resolve(
        (environment(HEALTHPORT="1"), file(HealthPort="2", HealthHost="a"), resource(healthPort=3, logPrefix="x"))
    )
    assert resolved.settings.health_port == 1
    assert resolved.settings.health_host == "a"
    assert resolved.settings.log_prefix == "x"
    assert resolved.origin_by_attribute["health_port"] == ("environment FELIX_HEALTHPORT", "1")
    assert resolved.origin_by_attribute["health_host"] == ("/etc/calico/felix.cfg", "a")
    assert resolved.origin_by_attribute["log_prefix"] == ("FelixConfiguration default", "x")


def test_datastore_sources_own_node_is_stronger_and_other_nodes_are_left_out() -> None:
    specs = {"default": {"logPrefix": "d"}, "node.a": {"logPrefix": "a"}, "node.b": {"logPrefix": "b"}}
    assert resolve(datastore_sources("a", specs)).settings.log_prefix == "a"
    assert resolve(datastore_sources("c", specs)).settings.log_prefix == "d"


@pytest.mark.parametrize(
    ("name", "text", "attribute", "value"),
    [
        ("Ipv6Support", "No", "ipv6_support", False),
        ("HealthEnabled", " T ", "health_enabled", True),
        ("InterfacePrefix", "cali, tap,", "interface_prefixes", ("cali", "tap")),
        ("RouteRefreshInterval", "0.5", "route_refresh_interval_s", 0.5),
        ("RouteRefreshInterval", "1m30s", "route_refresh_interval_s", 90.0),
        ("RouteRefreshInterval", "1h0m0.5s", "route_refresh_interval_s", 3600.5),
        ("NetlinkTimeoutSecs", "250ms", "netlink_timeout_s", 0.25),
        ("DefaultEndpointToHostAction", "Return", "default_endpoint_to_host_action", "RETURN"),
        ("LogSeverityScreen", "debug", "log_severity_screen", "DEBUG"),
        ("LogFilePath", "None", "log_file_path", ""),
        ("HealthPort", "0x10", "health_port", 16),
        ("VXLANEnabled", "AUTO", "vxlan_enabled", "auto"),
        ("VXLANEnabled", "yes", "vxlan_enabled", "true"),
        ("ExternalNodesCIDRList", "10.0.0.7, fd00::/64", "external_nodes", ("10.0.0.7/32", "fd00::/64")),
        ("HealthTimeoutOverrides", "b=1m,a=3", "health_timeout_overrides", (("a", 3.0), ("b", 60.0))),
        ("EtcdEndpoints", "http://a:1, http://[::1]:2", "etcd_endpoints", ("http://a:1", "http://[::1]:2")),
    ],
)
def test_value_in_each_form_is_read(name: str, text: str, attribute: str, value: object) -> None:
    resolved = resolve((file(**{name: text}),))
    assert resolved.problems == ()
    assert getattr(resolved.settings, attribute) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HealthEnabled", "maybe"),
        ("VXLANEnabled", "maybe"),
        ("VXLANVNI", "0"),
        ("ExternalNodesCIDRList", "everybody"),
        ("HealthPort", "65536"),
        ("HealthPort", "http"),
        ("HealthPort", ""),
        ("RouteRefreshInterval", "-1"),
        ("RouteRefreshInterval", "nan"),
        ("RouteRefreshInterval", "1m30"),
        ("InterfacePrefix", ""),
        ("InterfacePrefix", "a/b"),
        ("EtcdEndpoints", "ftp://a:1"),
        ("EtcdAddr", "a"),
        ("DatastoreType", "kubernetes"),
        ("RunDir", "run"),
        ("HealthTimeoutOverrides", "a"),
    ],
)
def test_bad_value_names_setting_value_and_source_and_the_default_stays(name: str, text: str) -> None:
    resolved = resolve((file(**{name: text}),))
    (problem,) = resolved.problems
    assert (problem.subject, problem.field) == ("/etc/calico/felix.cfg", name)
    assert problem.value == (text or '""')
    assert problem.reason.startswith("give ")
    assert resolved.settings == Settings()


def test_bad_value_in_datastore_keeps_the_old_value_at_run_time() -> None:
    before = resolve((resource(routeRefreshInterval="10s"),))
    after = resolve((resource(routeRefreshInterval="soon", logPrefix="new"),), before)
    assert after.settings.route_refresh_interval_s == 10.0
    assert after.origin_by_attribute["route_refresh_interval_s"].text == "10s"
    assert after.settings.log_prefix == "new"
    assert len(after.problems) == 1


def test_bad_value_without_an_old_one_leaves_the_next_source_to_count() -> None:
    resolved = resolve((resource("node.a", logPrefix=[{}], healthPort=-1), resource(healthPort=7)))
    assert resolved.settings.health_port == 7


def test_known_name_without_support_is_a_notice_with_the_reason() -> None:
    for source, name in (
        (environment(BPFENABLED="true"), "FELIX_BPFENABLED"),
        (file(bpfenabled="true"), "bpfenabled"),
        (resource(bpfEnabled=True), "bpfEnabled"),
    ):
        resolved = resolve((source,))
        assert resolved.problems == ()
        (notice,) = resolved.notices
        assert notice.field == name
        assert "eBPF" in notice.reason


def test_unknown_name_is_a_notice_with_a_hint() -> None:
    (notice,) = resolve((environment(HEALTHPROT="1"),)).notices
    assert "did you mean HealthPort?" in notice.reason
    (notice,) = resolve((file(Zebra="1"),)).notices
    assert "did you mean" not in notice.reason


def test_local_setting_in_the_datastore_is_a_notice_without_effect() -> None:
    resolved = resolve((resource(etcdAddr="evil:1"),))
    assert resolved.settings == Settings()
    assert "environment or in the file" in resolved.notices[0].reason


def test_secret_value_is_never_shown() -> None:
    resolved = resolve((environment(ETCDPASSWORD="hunter2"), file(EtcdPassword="hunter\x002")))
    assert "hunter" not in repr(resolved)
    assert resolved.settings.etcd_password == "hunter2"


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ({"EtcdCertFile": "/a"}, "EtcdCertFile"),
        ({"EtcdKeyFile": "/a"}, "EtcdKeyFile"),
        ({"EtcdUsername": "a"}, "EtcdUsername"),
        ({"EtcdEndpoints": "http://a:1,https://b:1"}, "EtcdEndpoints"),
    ],
)
def test_values_that_contradict_each_other_are_a_problem(lines: dict[str, str], field: str) -> None:
    (problem,) = resolve((file(**lines),)).problems
    assert problem.field == field


def test_reporting_ttl_shorter_than_the_interval_becomes_longer_and_is_a_problem() -> None:
    resolved = resolve((file(ReportingIntervalSecs="20", ReportingTTLSecs="20"),))
    assert resolved.settings.reporting_ttl_s == 50.0
    assert [problem.field for problem in resolved.problems] == ["ReportingTTLSecs"]


def test_find_changes_tells_live_from_restart() -> None:
    old = resolve(()).settings
    new = resolve((file(RouteRefreshInterval="1", InterfacePrefix="tap"),)).settings
    assert find_changes(old, new) == Changes(live=("RouteRefreshInterval",), restart=("InterfacePrefix",))
    assert find_changes(new, new) == Changes((), ())


def test_table_every_default_is_what_its_reader_gives_for_its_own_text() -> None:
    for row in SETTINGS:
        if isinstance(row.default, (bool, int, float, str)) and row.default != "":
            assert row.about.reader.read(str(row.default)) == row.default, row.about.name


def test_table_no_name_is_supported_and_unsupported_at_once() -> None:
    assert SETTING_BY_LOWERED_NAME.keys().isdisjoint(REASON_BY_LOWERED_NAME)
    assert len(SETTING_BY_LOWERED_NAME) == len(SETTINGS)


def test_etcd_urls_endpoints_win_over_address() -> None:
    assert Settings(etcd_scheme="https").etcd_urls == ("https://127.0.0.1:2379",)
    assert Settings(etcd_endpoints=("http://a:1",)).etcd_urls == ("http://a:1",)
