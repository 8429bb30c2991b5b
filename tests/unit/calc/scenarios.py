"""The list of states through which the graph is walked: what each part of calculation is for, one state at a time."""

from __future__ import annotations

from tests.unit.calc.states import (
    State,
    affinity,
    global_policy,
    host_endpoint,
    network_policy,
    network_set,
    profile,
    tier,
    workload,
)

WEB = workload("web", ips="10.0.0.1/32 fd00::1/128", labels="role=web", profiles="base")
DB = workload("db", "h2", ips="10.0.0.2/32", labels="role=db")
BASE = profile("base", ingress="Allow", egress="Allow")
BASE_RULES = "< Allow > Allow "
WEB_ALONE = {"web": "cali-web 10.0.0.1,fd00::1 < base > base "}
FROM_DB = global_policy("from-db", "role == 'web'", ingress="Allow:role == 'db'")
FROM_DB_STACK = "default(from-db)-Deny base > base "
DB_SET = "role == 'db'"

NESTED = "10.0.0.0/8 10.1.0.0/16 10.1.1.0/24 10.1.1.7/32 192.0.2.0/24 2001:db8::/32"
NESTED_OUTERMOST = "10.0.0.0/8 10.1.1.7/32 192.0.2.0/24 2001:db8::/32"
MISSING = "does not exist, but endpoints of this host name it"
MISSING_TIER = "does not exist; its policies stand behind all others and end in Deny"
LOST_TO_WEB = (
    "belongs to WorkloadEndpoint(default/web), which names it too and has the lower key; remove it from one of them"
)

STATES = [
    State("remote endpoint alone", DB),
    State("local endpoint", WEB | BASE, WEB_ALONE, {"base": BASE_RULES}),
    State(
        "profile is missing",
        WEB,
        WEB_ALONE,
        problems=(f"/calico/resources/v3/projectcalico.org/profiles/base: {MISSING}",),
    ),
    State("profile that nobody uses", BASE | profile("other", "Allow:role == 'db'") | DB),
    State(
        "policy with a set of one remote address",
        WEB | BASE | DB | FROM_DB,
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: "10.0.0.2/32"},
    ),
    State(
        "set without members",
        WEB | BASE | FROM_DB,
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: ""},
    ),
    State(
        "policy that selects nobody here",
        WEB | BASE | global_policy("x", "role == 'db'", ingress="Allow:all()"),
        WEB_ALONE,
        {"base": BASE_RULES},
    ),
    State(
        "endpoint moved to another node",
        workload("web", "h2", ips="10.0.0.1/32 fd00::1/128", labels="role=web", profiles="base") | BASE | FROM_DB,
    ),
    State(
        "both ends local, address brought twice",
        WEB
        | BASE
        | FROM_DB
        | workload("db", ips="10.0.0.2/32", labels="role=db")
        | workload("db-2", "h2", ips="10.0.0.2/32 10.0.0.3/32", labels="role=db"),
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}", "db": "cali-db 10.0.0.2 < > "},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: "10.0.0.2/32 10.0.0.3/32"},
    ),
    State(
        "labels inherited from a profile",
        WEB
        | BASE
        | FROM_DB
        | workload("other", "h2", ips="10.0.0.9/32", profiles="dbs")
        | profile("dbs", labels="role=db"),
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: "10.0.0.9/32"},
    ),
    State(
        "own label overrides the inherited one, which also selects",
        workload("web", ips="10.0.0.1/32", profiles="webs")
        | profile("webs", labels="role=web")
        | workload("other", "h2", ips="10.0.0.9/32", labels="role=none", profiles="dbs")
        | profile("dbs", labels="role=db")
        | FROM_DB,
        {"web": "cali-web 10.0.0.1 < default(from-db)-Deny webs > webs "},
        {"webs": "< > ", "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: ""},
    ),
    State(
        "network set with nested prefixes: flags are set",
        WEB | BASE | FROM_DB | network_set("nets", NESTED, "role=db") | DB,
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}:46 > "},
        {DB_SET: f"{NESTED_OUTERMOST} 10.0.0.2/32"},
    ),
    State(
        "network set with everything covers the rest of its family",
        WEB | BASE | FROM_DB | network_set("nets", NESTED, "role=db") | network_set("all", "0.0.0.0/0", "role=db"),
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}:46 > "},
        {DB_SET: "0.0.0.0/0 10.1.1.7/32 2001:db8::/32"},
    ),
    State(
        "network set with a bad net keeps the good ones",
        WEB | BASE | FROM_DB | network_set("nets", "10.0.0.0/33 192.0.2.0/24", "role=db"),
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}:4 > "},
        {DB_SET: "192.0.2.0/24"},
        problems=(
            "/calico/resources/v3/projectcalico.org/globalnetworksets/nets: spec.nets[0]: "
            "'10.0.0.0/33' does not appear to be an IPv4 or IPv6 network (seen: 10.0.0.0/33)",
        ),
    ),
    State(
        "namespaced policy sees its own namespace",
        WEB
        | BASE
        | DB
        | network_policy("np", "role == 'web'", "Allow:role == 'db'")
        | network_policy("np", "role == 'web'", "Allow", namespace="elsewhere")
        | network_set("in", "192.0.2.0/24", "role=db", "default")
        | network_set("out", "198.51.100.0/24", "role=db", "elsewhere")
        | network_set("none", "203.0.113.0/24", "role=db"),
        {"web": "cali-web 10.0.0.1,fd00::1 < default(np)-Deny base > base "},
        {"base": BASE_RULES, "np": "< Allow from {projectcalico.org/namespace == 'default' && role == 'db'}:4 > "},
        {"projectcalico.org/namespace == 'default' && role == 'db'": "10.0.0.2/32 192.0.2.0/24"},
    ),
    State(
        "host endpoints are members by their expected addresses",
        WEB | BASE | FROM_DB | host_endpoint("h2-eth0", "172.16.0.2", "role=db"),
        {"web": f"cali-web 10.0.0.1,fd00::1 < {FROM_DB_STACK}"},
        {"base": BASE_RULES, "from-db": "< Allow from {role == 'db'}: > "},
        {DB_SET: "172.16.0.2/32"},
    ),
    State(
        "tiers by order then name, policies by order then name, missing tier last",
        workload("web", ips="10.0.0.1/32")
        | tier("b", 1, passes=True)
        | tier("a", 2)
        | tier("z")
        | tier("c", 2)
        | global_policy("b1", tier="b", order=5, ingress="Pass")
        | global_policy("b2", tier="b", order=4, ingress="Pass")
        | global_policy("b0", tier="b", ingress="Pass")
        | global_policy("a1", tier="a", egress="Allow")
        | global_policy("c1", tier="c", ingress=None, egress="Allow")
        | global_policy("z1", tier="z")
        | global_policy("d1")
        | global_policy("gone1", tier="gone"),
        {
            "web": "cali-web 10.0.0.1 < b(b2,b1,b0)-Pass a(a1)-Deny default(d1)-Deny z(z1)-Deny gone(gone1)-Deny "
            "> a(a1)-Deny c(c1)-Deny "
        },
        {
            "b1": "< Pass > ",
            "b2": "< Pass > ",
            "b0": "< Pass > ",
            "a1": "< > Allow ",
            "c1": "< > Allow ",
            "z1": "< > ",
            "d1": "< > ",
            "gone1": "< > ",
        },
        problems=(f"/calico/resources/v3/projectcalico.org/tiers/gone: {MISSING_TIER}",),
    ),
    State(
        "same policies, tiers reordered",
        workload("web", ips="10.0.0.1/32")
        | tier("b", 3)
        | tier("a", 2)
        | global_policy("b1", tier="b", order=5, ingress="Pass")
        | global_policy("b2", tier="b", order=6, ingress="Pass")
        | global_policy("a1", tier="a", ingress="Allow"),
        {"web": "cali-web 10.0.0.1 < a(a1)-Deny b(b1,b2)-Deny > "},
        {"b1": "< Pass > ", "b2": "< Pass > ", "a1": "< Allow > "},
    ),
    State(
        "policies for host endpoints alone",
        WEB
        | BASE
        | global_policy("pre", pre_dnat=True, ingress="Deny")
        | global_policy("raw", do_not_track=True, ingress="Deny"),
        WEB_ALONE,
        {"base": BASE_RULES},
    ),
    State(
        "two policies share a set, equal selectors being written differently",
        WEB
        | BASE
        | DB
        | FROM_DB
        | global_policy(
            "to-db", "role == 'web'", ingress=None, egress="Deny:role starts with 'd';Allow:role == \"db\""
        ),
        {"web": "cali-web 10.0.0.1,fd00::1 < default(from-db)-Deny base > default(to-db)-Deny base "},
        {
            "base": BASE_RULES,
            "from-db": "< Allow from {role == 'db'}: > ",
            "to-db": "< > Deny to {role starts with 'd'}: Allow to {role == 'db'}: ",
        },
        {DB_SET: "10.0.0.2/32", "role starts with 'd'": "10.0.0.2/32"},
    ),
    State(
        "two endpoints claim one interface",
        WEB | BASE | workload("zzz", at="cali-web", ips="10.0.0.9/32", profiles="other"),
        WEB_ALONE,
        {"base": BASE_RULES},
        problems=(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/zzz: spec.interfaceName: "
            f"{LOST_TO_WEB} (seen: cali-web)",
        ),
    ),
    State(
        "lower key takes the interface and the address",
        WEB | BASE | workload("aaa", at="cali-web", ips="10.0.0.1/32"),
        {"aaa": "cali-web 10.0.0.1 < > "},
        {},
        problems=(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/web: spec.interfaceName: "
            f"{LOST_TO_WEB.replace('default/web', 'default/aaa')} (seen: cali-web)",
        ),
    ),
    State(
        "two endpoints claim one address",
        WEB | BASE | workload("zzz", ips="10.0.0.1/32 10.0.0.9/32"),
        WEB_ALONE | {"zzz": "cali-zzz 10.0.0.9 < > "},
        {"base": BASE_RULES},
        problems=(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/zzz: spec.ipNetworks: "
            f"{LOST_TO_WEB} (seen: 10.0.0.1/32)",
        ),
    ),
    State(
        "who lost the interface does not keep the address",
        WEB | BASE | workload("xxx", at="cali-web", ips="10.0.0.9/32") | workload("zzz", ips="10.0.0.9/32"),
        WEB_ALONE | {"zzz": "cali-zzz 10.0.0.9 < > "},
        {"base": BASE_RULES},
        problems=(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/xxx: spec.interfaceName: "
            f"{LOST_TO_WEB} (seen: cali-web)",
        ),
    ),
    State(
        "the same address on another host is not contested",
        WEB | BASE | workload("aaa", "h2", at="cali-web", ips="10.0.0.1/32"),
        WEB_ALONE,
        {"base": BASE_RULES},
    ),
    State(
        "interface name that no kernel takes",
        WEB | BASE | workload("bad", at="cali/../x", ips="10.0.0.9/32"),
        WEB_ALONE,
        {"base": BASE_RULES},
        problems=(
            "/calico/resources/v3/projectcalico.org/workloadendpoints/default/bad: spec.interfaceName: "
            "is no name of an interface: 1-15 characters without blanks, slashes and colons (seen: cali/../x)",
        ),
    ),
    State(
        "own blocks, confirmed only",
        affinity("10.65.0.0/26")
        | affinity("10.65.1.0/26", state="pending")
        | affinity("10.65.2.0/26", "h2")
        | affinity("fd00:65::/122"),
        blocks="10.65.0.0/26 fd00:65::/122",
    ),
    State("block being given back", affinity("10.65.0.0/26", state="pendingDeletion")),
]
