"""Mesos-DNS's configuration: taken as it is, defaults, hints for typing errors, values that cannot be."""

import json

import pytest

from felix.dns.config import describe_config, read_config
from felix.dns.state import Place
from felix.errors import DataError

DEMO = {
    "zk": "zk://zookeeper:2181/mesos",
    "masters": ["172.17.0.5:5050"],
    "refreshSeconds": 5,
    "ttl": 60,
    "domain": "mesos",
    "port": 53,
    "resolvers": ["8.8.8.8"],
    "timeout": 5,
    "httpon": True,
    "dsnon": True,
    "httpport": 8123,
    "externalon": True,
    "listener": "192.168.255.254",
    "SOAMname": "root.ns1.mesos",
    "SOARname": "ns1.mesos",
    "SOARefresh": 60,
    "SOARetry": 600,
    "SOAExpire": 86400,
    "SOAMinttl": 60,
    "IPSources": ["netinfo", "mesos", "host"],
}


def read(**settings: object) -> object:
    return read_config(json.dumps({"masters": ["10.0.0.1:5050"], **settings}).encode(), "dns.json")


def test_file_of_the_demo_is_taken_with_hints_for_what_does_nothing() -> None:
    config = read_config(json.dumps(DEMO).encode(), "config.json")
    assert config.refresh_seconds == 5
    assert config.listeners == ("192.168.255.254",)
    assert config.soa_mname == "root.ns1.mesos"
    assert [notice for notice in config.notices if "dsnon is no setting" in notice and "did you mean dnson?" in notice]
    assert [notice for notice in config.notices if "zk is not asked" in notice]


def test_defaults_are_those_of_mesos_dns_and_keys_are_read_in_any_case() -> None:
    config = read_config(b'{"MASTERS": ["10.0.0.1:5050"], "ReFreshSeconds": 7}', "x")
    assert config.refresh_seconds == 7
    told = describe_config(config)
    wanted = {
        "stateTimeoutSeconds": 300,
        "ttl": 60,
        "SRVRecordDefaultWeight": 1,
        "domain": "mesos",
        "port": 53,
        "timeout": 5,
        "resolvers": ["8.8.8.8"],
        "listener": "0.0.0.0",
        "httpport": 8123,
        "SOAMname": "ns1.mesos",
        "SOARname": "root.ns1.mesos",
        "IPSources": ["netinfo", "mesos", "host"],
        "compat": False,
    }
    assert {key: told[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "is no JSON"),
        (b"[]", "expected a JSON object"),
        (b"{" * 3000, "is no JSON"),
        (b"{}", "names no source"),
        (b'{"zk":"zk://a/mesos"}', 'zk: is not asked.*"masters"'),
    ],
)
def test_file_that_is_no_configuration_is_refused(text: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)dns.json: .*{reason}"):
        read_config(text, "dns.json")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("masters", ["10.0.0.1"], "expected host:port"),
        ("masters", ["10.0.0.1:5050", "10.0.0.1:5050"], "names a master twice"),
        ("masters", "10.0.0.1:5050", "expected a list"),
        ("ttl", "60", "whole number"),
        ("ttl", -1, "whole number"),
        ("ttl", True, "whole number"),
        ("port", 70000, "whole number"),
        ("refreshSeconds", 0, "whole number"),
        ("dnson", "yes", "true or false"),
        ("domain", "bad domain", "expected a domain name"),
        ("domain", "", "expected a domain name"),
        ("resolvers", ["dns.example"], "expected an address"),
        ("listener", "eth0", "expected an address"),
        ("zoneResolvers", {"mesos": ["10.0.0.1"]}, "is answered here"),
        ("zoneResolvers", {"a.mesos": ["10.0.0.1"]}, "is answered here"),
        ("zoneResolvers", {"weave": []}, "has no resolvers"),
        ("zoneResolvers", ["weave"], "expected an object"),
        ("IPSources", [], "is empty"),
        ("IPSources", ["host", "host"], "twice"),
        ("IPSources", ["dockr"], "no source 'dockr'"),
        ("mesosAuthentication", "iam", "none or basic"),
        ("datastore", "felix", "expected an object"),
        ("datastore", {"domain": "x.mesos"}, "in or above mesos"),
        ("datastore", {"ttl": -5}, "whole number"),
        ("datastore", {"names": []}, "list of templates"),
        ("datastore", {"names": ["{lable:app}.felix"]}, "choose among"),
        ("datastore", {"names": [{"name": "{label:app}.felix", "unique": "y"}]}, "true or false"),
        ("datastore", {"names": [{"name": "{id}.felix", "unique": True, "service": []}]}, "service says nothing"),
        ("resolvers", ["127.0.0.1"], "is this server itself"),
    ],
)
def test_value_that_cannot_be_used_is_refused_by_key_and_reason(key: str, value: object, reason: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)dns.json: {key}.*{reason}"):
        read(**{key: value})


def test_key_given_twice_in_other_letters_is_refused() -> None:
    with pytest.raises(DataError, match="ttl is given twice"):
        read(ttl=5, TTL=6)


def test_resolvers_may_have_ports_and_both_families() -> None:
    config = read_config(b'{"masters":["a:1"],"resolvers":["8.8.8.8","[2001:db8::1]:54","::1"]}', "x")
    assert config.resolvers == (Place("8.8.8.8", 53), Place("2001:db8::1", 54), Place("::1", 53))


def test_credentials_are_never_told() -> None:
    text = b'{"masters":["a:1"],"mesosAuthentication":"basic","mesosCredentials":{"principal":"p","secret":"hush"}}'
    config = read_config(text, "x")
    assert config.secret == "hush"
    assert "hush" not in json.dumps(describe_config(config))


def test_names_of_templates_with_wrong_keys_are_told() -> None:
    config = read_config(b'{"datastore":{"names":[{"name":"{id}.felix","uniqe":true}],"domian":"x"}}', "x")
    assert [notice.partition(";")[2] for notice in config.notices] == [" did you mean domain?", " did you mean unique?"]
