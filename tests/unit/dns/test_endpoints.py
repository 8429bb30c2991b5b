"""Names of endpoints: templates, what shares a name and what collides, the same end whatever the order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from felix.dns.config import settle_config
from felix.dns.endpoints import Collision, EndpointNames, Facts, read_facts
from felix.dns.names import hash5, is_name
from felix.dns.templates import Template, parse_template, render_name
from felix.dns.zone import Record, Zone
from felix.model.endpoints import EndpointPort, WorkloadEndpoint, WorkloadEndpointSpec
from felix.model.metadata import Metadata


def endpoint(
    name: str,
    *addresses: str,
    namespace: str = "default",
    created: str = "",
    ports: tuple[EndpointPort, ...] = (),
    **labels: str,
) -> WorkloadEndpoint:
    metadata = Metadata(name=name, namespace=namespace, labels=labels, creation_timestamp=created or None)
    nets = tuple(f"{one}/{128 if ':' in one else 32}" for one in addresses)
    return WorkloadEndpoint(metadata=metadata, spec=WorkloadEndpointSpec(node="h1", ip_networks=nets, ports=ports))


class Names:
    """A zone with names of endpoints by these templates."""

    def __init__(self, *templates: Template | str) -> None:
        self.zone = Zone()
        parsed = [one if isinstance(one, Template) else parse_template(one, "felix") for one in templates]
        self.names = EndpointNames(self.zone, parsed)

    def put(self, one: WorkloadEndpoint) -> None:
        self.names.put(f"{one.metadata.namespace}/{one.metadata.name}", read_facts(one))

    def values(self, name: str, rtype: str = "A") -> list[str]:
        return sorted(one.value for one in self.zone.find(name, rtype))


def test_endpoints_of_one_service_share_a_name_and_its_parts_are_values_made_labels() -> None:
    names = Names("{label:app}.{namespace}.felix")
    names.put(endpoint("a", "10.0.0.1", app="My_App"))
    names.put(endpoint("b", "10.0.0.2", "fd00::2", app="My_App"))
    names.put(endpoint("c", "10.0.0.3"))
    names.put(endpoint("d", app="My_App"))
    assert names.values("my-app.default.felix") == ["10.0.0.1", "10.0.0.2"]
    assert names.values("my-app.default.felix", "AAAA") == ["fd00::2"]
    assert names.values("2.0.0.10.in-addr.arpa", "PTR") == ["my-app.default.felix"]
    assert names.zone.names_count == 4
    assert (names.names.endpoints_count, names.names.nameless_count) == (4, 2)
    names.names.put("default/b", None)
    assert names.values("my-app.default.felix") == ["10.0.0.1"]
    names.names.put("default/a", None)
    names.names.put("default/unknown", None)
    assert names.zone.names_count == 0


@pytest.mark.parametrize("rank", [("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"), ("2020-01-01T00:00:00Z", "")])
def test_two_services_that_want_one_name_are_told_and_the_older_has_it(rank: tuple[str, str]) -> None:
    names = Names("{label:app}.felix")
    old = endpoint("z", "10.0.0.1", namespace="red", created=rank[0], app="web")
    new = endpoint("a", "10.0.0.2", namespace="blue", created=rank[1], app="web")
    names.put(new)
    assert names.values("web.felix") == ["10.0.0.2"]
    names.put(old)
    assert names.values("web.felix") == ["10.0.0.1"]
    collision = Collision("web.felix", "red/z", ("blue/a",))
    assert names.names.collision_by_name == {"web.felix": collision}
    assert names.names.pop_news() == {"web.felix": collision}
    assert "red/z" in str(collision)
    names.names.put("red/z", None)
    assert names.values("web.felix") == ["10.0.0.2"]
    assert names.names.collision_by_name == {}
    assert names.names.pop_news() == {"web.felix": None}


def test_values_that_only_look_alike_once_they_are_labels_collide() -> None:
    names = Names("{label:app}.{namespace}.felix")
    names.put(endpoint("a", "10.0.0.1", app="my.app", created="2020-01-01T00:00:00Z"))
    names.put(endpoint("b", "10.0.0.2", app="my_app", created="2020-01-02T00:00:00Z"))
    assert names.values("my-app.default.felix") == ["10.0.0.1"]
    assert len(names.names.collision_by_name) == 1


def test_service_says_who_shares_a_name_across_namespaces() -> None:
    names = Names(parse_template("{label:app}.felix", "felix", service=["label:app"]))
    names.put(endpoint("a", "10.0.0.1", namespace="red", app="web"))
    names.put(endpoint("a", "10.0.0.2", namespace="blue", app="web"))
    assert names.values("web.felix") == ["10.0.0.1", "10.0.0.2"]
    assert names.names.collision_by_name == {}


def test_unique_template_never_gives_two_endpoints_one_name() -> None:
    names = Names(parse_template("{label:app}.felix", "felix", is_unique=True))
    names.put(endpoint("a", "10.0.0.1", app="web"))
    names.put(endpoint("b", "10.0.0.2", app="web"))
    assert names.values("web.felix") == ["10.0.0.1"]
    assert names.names.collision_by_name["web.felix"].losers == ("default/b",)


def test_default_templates_give_addresses_services_and_a_name_for_each_endpoint() -> None:
    config = settle_config({"datastore": {}}, "test")
    assert config.datastore is not None
    names = Names(*config.datastore.templates)
    ports = (EndpointPort(name="http", port=80, protocol="TCP"), EndpointPort(name="dns", port=53, protocol=17))
    names.put(endpoint("a", "10.0.0.1", app="web", ports=ports))
    own = f"web-{hash5('default/a')}.default.felix"
    assert names.values(own) == names.values("web.default.felix") == ["10.0.0.1"]
    assert names.values("1.0.0.10.in-addr.arpa", "PTR") == [own]
    for name in ("_web._tcp.default.felix", "_http._web._tcp.default.felix", "_http._tcp.web.default.felix"):
        assert [(one.value, one.port) for one in names.zone.find(name, "SRV")] == [(own, 80)]
    assert names.zone.find("_dns._udp.web.default.felix", "SRV")[0].port == 53
    assert names.names.collision_by_name == {}


@pytest.mark.parametrize(
    ("text", "values", "name"),
    [
        ("{label:app|dotted}.felix", {("label", "app"): "b.a_x..c"}, "b.a-x.c.felix"),
        ("{label:app|keep}.felix", {("label", "app"): "nginx_prod"}, "nginx_prod.felix"),
        ("{label:app|hash}.felix", {("label", "app"): "test"}, "iffe9.felix"),
        ("v{label:v|or=none}.felix", {}, "vnone.felix"),
        ("{label:app}.felix", {}, ""),
        ("{label:app}.felix", {("label", "app"): "///"}, ""),
        ("{label:app}.felix", {("label", "app"): "größe"}, "gre.felix"),
        ("{label:app}-{id}.felix", {("label", "app"): "x" * 90, ("id", ""): "abcde"}, "x" * 57 + "-abcde.felix"),
        ("{name}-{node}.felix", {("name", ""): "a", ("node", ""): "h1"}, "a-h1.felix"),
    ],
)
def test_template_renders(text: str, values: dict[tuple[str, str], str], name: str) -> None:
    assert render_name(parse_template(text, "felix"), values) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must end with .felix"),
        ("{label:app}", "must end with .felix"),
        ("{label:app}.felix2", "must end with .felix"),
        ("web.felix", "no placeholder"),
        ("{lable:app}.felix", "choose among"),
        ("{label}.felix", "needs a key"),
        ("{node:x}.felix", "takes no key"),
        ("{node|dashed}.felix", r"no \|dashed"),
        ("{node.felix", "cannot be part of a name"),
        ("A{node}.felix", "cannot be part of a name"),
    ],
)
def test_template_that_cannot_be_used_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_template(text, "felix")


TEMPLATES = (
    parse_template("{label:app}.felix", "felix"),
    parse_template("{label:app}-{id}.felix", "felix", is_unique=True),
    parse_template("{node}.felix", "felix", is_unique=True),
    parse_template("_{port}._{protocol}.{label:app}.felix", "felix"),
)
FACTS = st.builds(
    Facts,
    st.sampled_from(["2020", "2021", "~"]),
    st.fixed_dictionaries(
        {
            ("namespace", ""): st.sampled_from(["red", "blue"]),
            ("label", "app"): st.sampled_from(["a.b", "a_b", "c", "", "h1"]),
            ("node", ""): st.sampled_from(["h1", "h2"]),
            ("id", ""): st.sampled_from(["x", "y"]),
        }
    ),
    st.sampled_from([(), ("10.0.0.1",), ("10.0.0.2", "fd00::2")]),
    st.just(()),
)
KEYS = st.sampled_from(["k1", "k2", "k3", "k4"])


def _whole(names: EndpointNames, zone: Zone) -> tuple[set[Record], dict[str, Collision]]:
    return set(zone.iterate()), names.collision_by_name


@given(st.lists(st.tuples(KEYS, st.none() | FACTS), max_size=15))
def test_names_depend_on_what_is_there_and_not_on_how_it_came(steps: list[tuple[str, Facts | None]]) -> None:
    zone = Zone()
    names = EndpointNames(zone, TEMPLATES)
    final: dict[str, Facts | None] = {}
    for key, facts in steps:
        names.put(key, facts)
        final[key] = facts
    for order in (sorted(final), sorted(final, reverse=True)):
        fresh_zone = Zone()
        fresh = EndpointNames(fresh_zone, TEMPLATES)
        for key in order:
            fresh.put(key, final[key])
        assert _whole(fresh, fresh_zone) == _whole(names, zone)
    assert all(is_name(record.name) for record in zone.iterate())
    for key in final:
        names.put(key, None)
    assert zone.names_count == 0
    assert names.collision_by_name == {}
    assert names._claimants_by_name == {}
    assert names._holder_by_name == {}
