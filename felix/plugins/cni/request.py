"""What the agent is asked for, from a configuration and a call: the bodies of its local API. Pure."""

from __future__ import annotations

from felix.plugins.cni.call import known_args
from felix.plugins.cni.conf import take, take_flag, take_objects, take_texts
from felix.plugins.cni.refusal import DECODING_FAILURE, INVALID_CONFIG, CniError
from felix.plugins.cni.result import is_ipv6

TYPE_CHECKING = False
if TYPE_CHECKING:
    from felix.plugins.cni.call import Call
    from felix.plugins.cni.conf import Conf

KNOWN_ARGS = ("IP", "MAC")
_USUAL_DEMANDS: tuple[object, ...] = (None, [], [{}], [{"protocol": "IPv4"}])


def attach_body(call: Call, conf: Conf, given: list[str]) -> dict[str, object]:
    """Returns the body of POST /v1/attach. given: addresses that another IPAM plug-in has assigned, without length.

    Raises CniError when the configuration asks for what cannot be.
    """
    pairs = known_args(call.args, KNOWN_ARGS)
    info = conf.network_info
    namespace, labels = _find_labels(info, conf.cni_args)
    body: dict[str, object] = {
        "network": conf.name,
        "container": call.container,
        "interface": call.interface,
        "netns": call.netns,
        "namespace": namespace or "default",
        "labels": labels,
        "given": given,
        "mac": _requested_mac(conf, pairs),
        "mtu": take(conf.fields, "mtu", int, 0),
        "ports": take_objects(conf.fields, "ports"),
        "default_route": take_flag(conf.fields, "include_default_routes", True),
        "forwarding": take_flag(
            take(conf.fields, "container_settings", dict, {}), "allow_ip_forwarding", False, "container_settings."
        ),
    }
    limits = limits_wanted(conf)
    if limits:
        body["qosControls"] = limits
    profiles = take_texts(conf.fields, "profiles")
    body |= node_meant(conf)
    if profiles:
        body |= {"profiles": profiles, "network_profile": False}
    groups = take_texts(info, "groups", "network_info.")
    if groups:
        body["groups"] = groups
    if not given:
        body |= address_choice(conf, requested_addresses(conf, pairs))
    return body


def limits_wanted(conf: Conf) -> dict[str, object]:
    """Returns the limits of the endpoint: what the configuration says, and over that what the runtime does.

    The runtime's rates are bits a second and its bursts bits, as the endpoint's are; 0 is no limit, as everywhere.
    """
    limits = dict(take(conf.fields, "qosControls", dict, {}))
    asked = take(conf.runtime, "bandwidth", dict, {}, "runtimeConfig.")
    for side in ("ingress", "egress"):
        where = "runtimeConfig.bandwidth."
        rate = take(asked, f"{side}Rate", int, 0, where)
        burst = take(asked, f"{side}Burst", int, 0, where)
        for key, value in ((f"{side}Rate", rate), (f"{side}Burst", burst)):
            if value < 0:
                raise CniError(INVALID_CONFIG, f'"{where}{key}" is {value}; it cannot be negative')
        if burst and not rate:
            text = f'"{where}{side}Burst" is {burst}, but there is no "{side}Rate"'
            raise CniError(INVALID_CONFIG, text, "a burst alone limits nothing: give the rate too")
        if rate:
            for name in ("Burst", "Peakrate", "Minburst"):  # of another rate
                limits.pop(side + name, None)
            limits |= {f"{side}Bandwidth": rate, **({f"{side}Burst": burst} if burst else {})}
    return limits


def address_choice(conf: Conf, requested: list[str]) -> dict[str, object]:
    """Returns how addresses are chosen: the requested ones; one for each other family that the configuration wants."""
    demand, _ = _mesos_demand(conf.network_info)
    wanted = {
        "ipv4": take_flag(conf.ipam, "assign_ipv4", True, "ipam.") or demand["ipv4"] > 0,
        "ipv6": take_flag(conf.ipam, "assign_ipv6", False, "ipam.") or demand["ipv6"] > 0,
    }
    has = {"ipv4": any(not is_ipv6(one) for one in requested), "ipv6": any(map(is_ipv6, requested))}
    choice: dict[str, object] = {key: int(wanted[key] and not has[key]) for key in wanted}
    if not requested and not any(wanted.values()):
        raise CniError(
            INVALID_CONFIG, '"ipam" assigns neither IPv4 nor IPv6 addresses', "set assign_ipv4 or assign_ipv6"
        )
    pools = [pool for key in ("ipv4_pools", "ipv6_pools") for pool in take_texts(conf.ipam, key, "ipam.")]
    return choice | {"addresses": requested, "pools": pools}


def requested_addresses(conf: Conf, pairs: dict[str, str]) -> list[str]:
    """Returns the addresses, without length, that a container is to have; from the strongest source that names any.

    That is runtimeConfig.ips, then args.cni.ips, then what Mesos asks for, then IP of CNI_ARGS.
    """
    sources = (
        ("runtimeConfig.ips", take_texts(conf.runtime, "ips", "runtimeConfig.")),
        ("args.cni.ips", take_texts(conf.cni_args, "ips", "args.cni.")),
        ("network_info", _mesos_demand(conf.network_info)[1]),
        ("CNI_ARGS IP", [piece for piece in pairs.get("IP", "").split(",") if piece.strip()]),
    )
    for source, texts in sources:
        if texts:
            return list(dict.fromkeys(_address(text.strip(), source) for text in texts))
    return []


def node_meant(conf: Conf) -> dict[str, object]:
    """Returns the field that says for which node the configuration is written; none if it is for any."""
    return {"node": conf.nodename} if conf.nodename else {}


def detach_body(call: Call, conf: Conf) -> dict[str, object]:
    """Returns the body of POST /v1/detach."""
    return {"network": conf.name, "container": call.container, "interface": call.interface}


def gc_body(conf: Conf) -> dict[str, object]:
    """Returns the body of POST /v1/gc. Raises CniError when the runtime does not say what is still valid.

    A list that is null is empty: that is how the reference library writes it.
    """
    key = next((key for key in ("cni.dev/valid-attachments", "cni.dev/attachments") if key in conf.fields), "")
    if not key:
        text = 'GC needs "cni.dev/valid-attachments"; without it nothing can be told from garbage, nothing was removed'
        raise CniError(INVALID_CONFIG, text)
    valid = []
    for entry in take_objects(conf.fields, key):
        container = take(entry, "containerID", str, "", f"{key}.")
        interface = take(entry, "ifname", str, "", f"{key}.")
        if not container or not interface:
            raise CniError(INVALID_CONFIG, f'"{key}": {entry} lacks containerID or ifname; nothing was removed')
        valid.append({"container": container, "interface": interface})
    return {"network": conf.name, "valid": valid}


def plain_address(text: str) -> str:
    """Returns an address without its length."""
    return text.partition("/")[0]


def _requested_mac(conf: Conf, pairs: dict[str, str]) -> str:
    return (
        take(conf.runtime, "mac", str, "", "runtimeConfig.")
        or take(conf.cni_args, "mac", str, "", "args.cni.")
        or pairs.get("MAC", "")
    )


def _address(text: str, source: str) -> str:
    import ipaddress  # needs some milliseconds, and few containers ask for an address

    try:
        return str(ipaddress.ip_interface(text).ip)
    except ValueError:
        raise CniError(INVALID_CONFIG, f"{source}: {text!r} is no address") from None


def _find_labels(info: dict[str, object], args: dict[str, object]) -> tuple[str, dict[str, str]]:
    """Returns the namespace that a label names, empty if none does, and all other labels, as selectors take them."""
    if info.get("labels") is None and args.get("labels") is None:
        return "", {}
    from felix.plugins.mesos.labels import NAMESPACE_LABEL, BadLabels, parse_labels, sanitise, sanitise_labels

    try:
        labels = parse_labels(info.get("labels"), "network_info.labels") | parse_labels(
            args.get("labels"), "args.cni.labels"
        )
    except BadLabels as error:
        raise CniError(DECODING_FAILURE, str(error)) from None
    return sanitise(labels.pop(NAMESPACE_LABEL, "")), sanitise_labels(labels)


def _mesos_demand(info: dict[str, object]) -> tuple[dict[str, int], list[str]]:
    """Returns how many addresses of each family Mesos asks for, and which ones; no more than one of a family counts.

    Nearly all ask for nothing, or for any IPv4 address; that needs none of the modules that know the rest.
    """
    if info.get("ip_address") is None and info.get("ip_addresses") in _USUAL_DEMANDS:
        return {"ipv4": 0, "ipv6": 0}, []
    from felix.plugins.mesos.network_info import BadNetworkInfo, count_demand, parse_network_info

    try:
        demand = count_demand([parse_network_info(info)])
    except BadNetworkInfo as error:
        raise CniError(INVALID_CONFIG, f"args: {error}") from None
    return {"ipv4": demand.ipv4, "ipv6": demand.ipv6}, list(demand.addresses)
