"""The verbs of felix-cni: the agent attaches, detaches, checks; addresses are its, or another IPAM plug-in's."""

from __future__ import annotations

import contextlib
import json

from felix.plugins.cni.apply import delegate, delegate_speaks_newest
from felix.plugins.cni.ask import Agent, Unclear
from felix.plugins.cni.conf import refuse_unsupported, take, take_flag
from felix.plugins.cni.refusal import AGENT_FAILED, CONFLICT, DIFFERS, INVALID_CONFIG, NOT_AVAILABLE, CniError
from felix.plugins.cni.request import attach_body, detach_body, gc_body, plain_address
from felix.plugins.cni.result import Result, addresses_of, is_ipv6, parse_result, render_result

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from felix.plugins.cni.call import Call
    from felix.plugins.cni.conf import Conf

_UNDO_S = 5.0


def add(call: Call, conf: Conf) -> str:
    """The container is attached, its policy in force; returns the result's document. If not, nothing of it is left."""
    if conf.previous is not None:
        text = f"{conf.fields.get('type', 'felix-cni')} makes the interface, so it must be the first plug-in of a list"
        raise CniError(INVALID_CONFIG, text, "put chained plug-ins such as portmap behind it")
    refuse_unsupported(conf)
    agent = Agent(conf.socket, conf.timeout_s)
    attach_body(call, conf, [])  # before anything is done: can it be meant at all?
    if not conf.has_own_ipam and _is_attached(call, conf, agent):
        raise _is_there(call, conf)
    try:
        addresses = Result([], [], [], {})
        if not conf.has_own_ipam:
            addresses = parse_result(delegate(call, conf, "ADD", agent.left_s), conf.version)
        given = [plain_address(str(ip["address"])) for ip in addresses.ips]
        if not given and not conf.has_own_ipam:
            raise CniError(INVALID_CONFIG, f"ipam {conf.ipam_type} assigned no address", "configure its section")
        answer = agent.act("/v1/attach", attach_body(call, conf, given))
        if not answer.get("is_new", True) and not agent.has_repeated:
            raise _is_there(call, conf)
    except BaseException as error:
        _undo(call, conf, is_attached=isinstance(error, Unclear))
        raise
    try:
        return json.dumps(render_result(_result(call, conf, answer, addresses.dns), conf.version), indent=4) + "\n"
    except BaseException:
        _undo(call, conf, is_attached=True)
        raise


def delete(call: Call, conf: Conf) -> str:
    """Nothing of the container is left, whether or not there was anything; addresses are given back last."""
    agent = Agent(conf.socket, conf.timeout_s)
    agent.act("/v1/detach", detach_body(call, conf))
    if not conf.has_own_ipam:
        delegate(call, conf, "DEL", agent.left_s)
    return ""


def check(call: Call, conf: Conf) -> str:
    """Interface, addresses, routes and policy of the container are what they were when it was attached."""
    agent = Agent(conf.socket, conf.timeout_s)
    body = attach_body(call, conf, [])
    expected = []
    if conf.previous is not None:
        previous = parse_result(conf.previous, conf.version)
        _check_interface(call, previous)
        expected = [plain_address(address) for address in addresses_of(previous, call.interface)]
    if not conf.has_own_ipam:
        delegate(call, conf, "CHECK", agent.left_s)
    body |= {"addresses": expected, "ipv4": 0, "ipv6": 0, "pools": []}
    try:
        agent.act("/v1/check", body)
    except CniError as error:
        if error.word not in {"differs", "not-found"}:
            raise
        text = f"{call.container}/{call.interface} is not as it was attached"
        raise CniError(DIFFERS, text, error.details or str(error)) from error
    return ""


def collect(call: Call, conf: Conf) -> str:
    """Nothing of this network on this host is left but what the runtime calls valid; one failure stops no other."""
    body = gc_body(conf)
    agent = Agent(conf.socket, conf.timeout_s)
    failures = [f"agent: {failure}" for failure in _list(agent.act("/v1/gc", body).get("failures"))]
    if not conf.has_own_ipam and delegate_speaks_newest(call, conf, agent.left_s):
        try:
            delegate(call, conf, "GC", agent.left_s)
        except CniError as error:
            failures.append(f"{error} {error.details}".rstrip())
    if failures:
        raise CniError(AGENT_FAILED, f"{len(failures)} could not be removed", "\n".join(failures))
    return ""


def report(call: Call, conf: Conf) -> str:
    """Containers can be attached now."""
    refuse_unsupported(conf)
    agent = Agent(conf.socket, conf.timeout_s)
    try:
        agent.look("/v1/ready-to-attach")
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"containers cannot be attached: {error}", error.details) from error
    check_node(conf, agent)
    if not conf.has_own_ipam and delegate_speaks_newest(call, conf, agent.left_s):
        delegate(call, conf, "STATUS", agent.left_s)
    return ""


VERBS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect, "STATUS": report}


def check_node(conf: Conf, agent: Agent) -> None:
    """Raises CniError when the configuration is written for another node than the agent's."""
    if not conf.nodename:
        return
    host = agent.look("/v1/status").get("host")
    if host != conf.nodename:
        text = f'"nodename" is {conf.nodename!r}, but the agent of this host is {host!r}'
        raise CniError(INVALID_CONFIG, text, "leave nodename out, or set it to the agent's FELIX_FELIXHOSTNAME")


def merge_dns(*sources: dict[str, object]) -> dict[str, object]:
    """Returns what a result says about name servers; of two sources that say something, the first counts."""
    merged: dict[str, object] = {}
    for source in reversed(sources):
        merged |= {key: value for key, value in source.items() if value}
    return merged


def _is_attached(call: Call, conf: Conf, agent: Agent) -> bool:
    """Whether the container is attached already. Another IPAM plug-in would give up the addresses that it has."""
    try:
        agent.act("/v1/check", attach_body(call, conf, []) | {"ipv4": 0, "ipv6": 0, "pools": []})
    except CniError as error:
        if error.word == "not-found":
            return False
        if error.word != "differs":
            raise
    return True


def _is_there(call: Call, conf: Conf) -> CniError:
    text = f"{call.container} has an interface {call.interface} of network {conf.name} already; it stays as it is"
    return CniError(CONFLICT, text, "call DEL before ADD")


def _undo(call: Call, conf: Conf, is_attached: bool) -> None:
    """Nothing of a failed ADD is left, as far as anybody can be reached; the runtime calls DEL for the rest."""
    agent = Agent(conf.socket, _UNDO_S)
    if is_attached:
        with contextlib.suppress(CniError):
            agent.act("/v1/detach", detach_body(call, conf))
    if not conf.has_own_ipam:
        with contextlib.suppress(CniError):
            delegate(call, conf, "DEL", _UNDO_S)


def _result(call: Call, conf: Conf, answer: dict[str, object], ipam_dns: dict[str, object]) -> Result:
    mtu = {"mtu": answer["mtu"]} if answer.get("mtu") else {}
    interfaces: list[dict[str, object]] = [
        {"name": answer["host_interface"], "mac": answer["host_mac"], **mtu},
        {"name": answer["interface"], "mac": answer["mac"], "sandbox": call.netns, **mtu},
    ]
    gateway_by_family = {is_ipv6(gateway): gateway for gateway in _list(answer.get("gateways"))}
    ips: list[dict[str, object]] = []
    for address in _list(answer.get("addresses")):
        gateway = gateway_by_family.get(is_ipv6(address))
        ips.append({"address": address, **({"gateway": gateway} if gateway else {}), "interface": 1})
    routes: list[dict[str, object]] = []
    if take_flag(conf.fields, "include_default_routes", True):
        families = dict.fromkeys(is_ipv6(str(ip["address"])) for ip in ips)
        routes = [
            {"dst": "::/0" if family else "0.0.0.0/0", "gw": gateway_by_family[family]}
            for family in families
            if family in gateway_by_family
        ]
    return Result(interfaces, ips, routes, merge_dns(_runtime_dns(conf), take(conf.fields, "dns", dict, {}), ipam_dns))


def _runtime_dns(conf: Conf) -> dict[str, object]:
    asked = take(conf.runtime, "dns", dict, {}, "runtimeConfig.")
    return {"nameservers": asked.get("servers"), "search": asked.get("searches"), "options": asked.get("options")}


def _check_interface(call: Call, previous: Result) -> None:
    """Raises CniError when the result that is to be checked is not about this call's interface."""
    if not previous.interfaces:
        return  # of version 0.2.0 and before
    for one in previous.interfaces:
        if one.get("name") == call.interface and one.get("sandbox"):
            if one["sandbox"] != call.netns:
                text = f"prevResult has {call.interface} in {one['sandbox']}, the call is about {call.netns}"
                raise CniError(DIFFERS, text)
            return
    raise CniError(DIFFERS, f"prevResult has no interface {call.interface} of the container")


def _list(value: object) -> list[str]:
    entries: Iterable[object] = value if isinstance(value, list) else ()
    return [str(entry) for entry in entries]
