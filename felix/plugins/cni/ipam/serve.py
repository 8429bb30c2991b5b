"""The verbs of felix-ipam: addresses for containers whose interfaces somebody else makes."""

from __future__ import annotations

import contextlib
import json

from felix.plugins.cni.ask import Agent, Unclear
from felix.plugins.cni.call import known_args
from felix.plugins.cni.ipam.plan import (
    GATEWAY,
    Gateway,
    handle_of,
    parse_gateways,
    place_address,
    plan_routes,
)
from felix.plugins.cni.refusal import AGENT_FAILED, CONFLICT, DIFFERS, INVALID_CONFIG, NOT_AVAILABLE, CniError
from felix.plugins.cni.request import (
    KNOWN_ARGS,
    address_choice,
    gc_body,
    node_meant,
    plain_address,
    requested_addresses,
)
from felix.plugins.cni.result import Result, addresses_of, parse_result, render_result
from felix.plugins.cni.serve import check_node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from felix.plugins.cni.call import Call
    from felix.plugins.cni.conf import Conf

_UNDO_S = 5.0


def add(call: Call, conf: Conf) -> str:
    """The container has addresses; returns the result's document, without interfaces. If not, it has none."""
    choice = address_choice(conf, requested_addresses(conf, known_args(call.args, KNOWN_ARGS)))
    gateways = parse_gateways(conf.ipam)
    agent = Agent(conf.socket, conf.timeout_s)
    handle = handle_of(conf.name, call.container, call.interface)
    held = _find(agent, handle)
    if held:
        text = f"{call.container}/{call.interface} has addresses of network {conf.name} already: {', '.join(held)}"
        raise CniError(CONFLICT, text, "call DEL before ADD")
    for gateway in gateways:
        _reserve(agent, conf, gateway)
    try:
        addresses = _allocate(agent, call, conf, choice)
        ips = [place_address(address, gateways) for address in addresses]
        result = Result([], ips, plan_routes(conf.ipam, gateways, ips), {})
        return json.dumps(render_result(result, conf.version), indent=4) + "\n"
    except BaseException:
        with contextlib.suppress(CniError):
            Agent(conf.socket, _UNDO_S).act("/v1/ipam/release", _release_body(call, conf))
        raise


def delete(call: Call, conf: Conf) -> str:
    """The container has no address, whether or not it had one."""
    Agent(conf.socket, conf.timeout_s).act("/v1/ipam/release", _release_body(call, conf))
    return ""


def check(call: Call, conf: Conf) -> str:
    """The addresses of the result are still the container's."""
    agent = Agent(conf.socket, conf.timeout_s)
    held = {plain_address(address) for address in _find(agent, handle_of(conf.name, call.container, call.interface))}
    who = f"{call.container}/{call.interface}"
    if not held:
        raise CniError(DIFFERS, f"{who} holds no address of network {conf.name}")
    if conf.previous is not None:
        previous = addresses_of(parse_result(conf.previous, conf.version), call.interface)
        lost = [address for address in map(plain_address, previous) if address not in held]
        if lost:
            raise CniError(DIFFERS, f"{who} has {', '.join(lost)}, which it does not hold", f"held: {sorted(held)}")
    return ""


def collect(call: Call, conf: Conf) -> str:
    """No container of this network on this host holds addresses but those that the runtime calls valid."""
    body = gc_body(conf)
    valid = body["valid"]
    assert isinstance(valid, list)
    valid.append({"container": GATEWAY, "interface": "eth0"})
    failures = Agent(conf.socket, conf.timeout_s).act("/v1/gc", body).get("failures")
    if failures:
        listed = "\n".join(map(str, failures)) if isinstance(failures, list) else str(failures)
        raise CniError(AGENT_FAILED, "not all could be removed", listed)
    return ""


def report(call: Call, conf: Conf) -> str:
    """Addresses can be assigned now."""
    parse_gateways(conf.ipam)
    agent = Agent(conf.socket, conf.timeout_s)
    try:
        agent.look("/v1/ready-to-attach")
    except CniError as error:
        raise CniError(NOT_AVAILABLE, f"addresses cannot be assigned: {error}", error.details) from error
    check_node(conf, agent)
    return ""


VERBS = {"ADD": add, "DEL": delete, "CHECK": check, "GC": collect, "STATUS": report}


def _find(agent: Agent, handle: str) -> list[str]:
    return _addresses(agent.act("/v1/ipam/find", {"handle": handle}))


def _allocate(agent: Agent, call: Call, conf: Conf, choice: dict[str, object]) -> list[str]:
    """Returns the addresses that the container has now. Asked twice it would have more: the unclear is undone first."""
    body = _release_body(call, conf)
    whose = {**_whose(conf, call.container), "felix.use": "ipam-only", "felix.interface": call.interface}
    while True:
        try:
            asked = {**choice, **node_meant(conf), "handle": body["handle"], "attributes": whose}
            return _addresses(agent.act("/v1/ipam/allocate", asked, is_repeatable=False))
        except Unclear:
            agent.act("/v1/ipam/release", body)


def _release_body(call: Call, conf: Conf) -> dict[str, object]:
    """What gives back all of a container: names with dots may share a handle, so attributes tell whose it is."""
    handle = handle_of(conf.name, call.container, call.interface)
    return {"handle": handle, "attributes": _whose(conf, call.container)}


def _whose(conf: Conf, container: str) -> dict[str, str]:
    return {"felix.network": conf.name, "felix.container": container}


def _reserve(agent: Agent, conf: Conf, gateway: Gateway) -> None:
    """The gateway's address is no container's: it is the network's own, where it lies in one of our pools."""
    handle = handle_of(conf.name, GATEWAY, "eth0")
    if gateway.address in map(plain_address, _find(agent, handle)):
        return
    body: dict[str, object] = {"handle": handle, "addresses": [gateway.address], **node_meant(conf)}
    body["attributes"] = {**_whose(conf, GATEWAY), "felix.use": "ipam-only"}
    try:
        agent.act("/v1/ipam/allocate", body)
    except CniError as error:
        if error.code == INVALID_CONFIG:  # in no pool: nobody can get it
            return
        if error.code == CONFLICT and gateway.address in map(plain_address, _find(agent, handle)):
            return  # another call was quicker
        raise CniError(
            error.code, f'"ipam.gateway" {gateway.address} cannot be reserved: {error}', error.details
        ) from error


def _addresses(answer: dict[str, object]) -> list[str]:
    addresses = answer.get("addresses")
    return [str(address) for address in addresses] if isinstance(addresses, list) else []
