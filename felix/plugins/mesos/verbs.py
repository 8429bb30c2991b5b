"""The five verbs of net-modules: what each checks, what it asks the agent, what it answers. Pure but for the asking.

An address of Mesos has the launch's uid as its handle and says that it is Mesos's: that is how the plug-in, which
remembers nothing, gives back what a launch has, and never what has become somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable

from felix.plugins.ask import NoAgent, Refused
from felix.plugins.mesos import request
from felix.plugins.mesos.labels import NAMESPACE_LABEL, sanitise, sanitise_labels
from felix.plugins.mesos.request import Args, BadRequest

Answer = dict[str, object]
Ask = Callable[[str, Answer, bool], object]
"""Takes a route of the agent, a body, and whether asking twice is as good as asking once; returns what it answers.

Raises NoAgent, Refused.
"""

ORCHESTRATOR = "mesos"
NETWORK = "mesos"
INTERFACE = "eth0"
IS_MESOS = {"orchestrator": ORCHESTRATOR}
"""What tells allocations of Mesos from others, beside the host, which the agent adds."""
ATTRIBUTES = {**IS_MESOS, "felix.use": "pending"}
"""What is stored beside an address whose endpoint comes later, with `isolate`."""

ALREADY_CONFIGURED = "This container has already been configured with Calico Networking."
_ATTACHED = "attached already"  # how the agent begins to say that of a container; other conflicts are about addresses


class Failed(Exception):
    """The verb cannot do what it should; its text is the answer's error. detail: for the log, may be empty."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


def allocate(args: Args, ask: Ask) -> Answer:
    """The launch has as many addresses as it asked for, or none at all, not even those of an earlier `reserve`.

    Of the addresses asked for, those that a label names are taken, the rest is chosen.
    """
    uid, _ = request.read_uid(args), request.read_hostname(args)
    ipv4, ipv6 = request.read_counts(args)
    static4, static6 = request.read_static(args, 4), request.read_static(args, 6)
    ipv4, ipv6 = max(ipv4 - len(static4), 0), max(ipv6 - len(static6), 0)
    found: list[str] = []
    if ipv4 or ipv6 or static4 or static6:
        body = {"ipv4": ipv4, "ipv6": ipv6, "addresses": [*static4, *static6]}
        try:
            found = _allocate(uid, body, ask)
        except (NoAgent, Refused, Failed):
            _forget(uid, ask)
            raise
    auto = [address for address in found if address not in static4 and address not in static6]
    return {
        "ipv4": [address for address in auto if ":" not in address] + static4,
        "ipv6": [address for address in auto if ":" in address] + static6,
    }


def reserve(args: Args, ask: Ask) -> Answer:
    """The launch has all of these addresses, or none of them."""
    uid, _ = request.read_uid(args), request.read_hostname(args)
    addresses = [*request.read_addresses(args, "ipv4_addrs", 4), *request.read_addresses(args, "ipv6_addrs", 6)]
    if not addresses:
        raise BadRequest("Must provide at least one IPv4 or IPv6 address.")
    try:
        _allocate(uid, {"ipv4": 0, "ipv6": 0, "addresses": addresses}, ask)
    except (NoAgent, Failed):
        # Whether it was done is not known. Nothing else of the launch is older: net-modules reserves first.
        _forget(uid, ask)
        raise
    return {}


def release(args: Args, ask: Ask) -> Answer:
    """Of the addresses named, or of the launch's, Mesos has none on this host; those of others are theirs still."""
    uid, ips = args.get("uid"), args.get("ips")
    if uid is None and ips is None:
        raise BadRequest("Must supply either uid or ips.")
    if uid is not None and ips is not None:
        raise BadRequest("Supply either uid or ips, not both.")
    body: Answer = {"attributes": IS_MESOS}
    if uid is None:
        addresses = request.parse_addresses(ips, limit=request.RELEASES_LIMIT)
        if not addresses:
            return {}
        body["addresses"] = addresses
    elif not isinstance(uid, str):
        raise BadRequest("uid must be a string")
    else:
        body["handle"] = request.parse_uid(uid)
    ask("/v1/ipam/release", body, True)
    return {}


def isolate(args: Args, ask: Ask) -> Answer:
    """The container has an interface with these addresses, and the policy of its groups is in force."""
    container, _, pid = request.read_container_id(args), request.read_hostname(args), request.read_pid(args)
    addresses = [*request.read_addresses(args, "ipv4_addrs", 4), *request.read_addresses(args, "ipv6_addrs", 6)]
    if not addresses:
        raise BadRequest("Must provide at least one IPv4 or IPv6 address.")
    groups, labels = request.read_netgroups(args), request.read_labels(args)
    for name in request.STATIC_LABELS.values():
        labels.pop(name, None)
    namespace = sanitise(labels.pop(NAMESPACE_LABEL, "")).lower()
    body: Answer = {
        "network": NETWORK,
        "container": container,
        "interface": INTERFACE,
        "pid": pid,
        "orchestrator": ORCHESTRATOR,
        "namespace": namespace or "default",
        "labels": sanitise_labels(labels),
        "groups": groups,
        "given": addresses,
    }
    try:
        ask("/v1/attach", body, True)
    except Refused as error:
        if error.code == "conflict" and _ATTACHED in str(error):
            raise Failed(ALREADY_CONFIGURED, str(error)) from None
        raise
    return {}


def cleanup(args: Args, ask: Ask) -> Answer:
    """The container has no interface, and none of the addresses that it had and still holds. Harmless when repeated."""
    container, _ = request.read_container_id(args), request.read_hostname(args)
    body: Answer = {"container": container, "interface": INTERFACE, "orchestrator": ORCHESTRATOR}
    ask("/v1/detach", body, True)
    return {}


VERBS: dict[str, Callable[[Args, Ask], Answer]] = {
    "allocate": allocate,
    "reserve": reserve,
    "release": release,
    "isolate": isolate,
    "cleanup": cleanup,
}


def _allocate(uid: str, body: Answer, ask: Ask) -> list[str]:
    """Returns the addresses that the agent gave, without length; as many as were asked for. Raises Failed."""
    try:
        answer = ask("/v1/ipam/allocate", {"handle": uid, "attributes": ATTRIBUTES, **body}, False)
    except Refused as error:
        taken = _find_named(str(error), body["addresses"])
        if error.code == "conflict" and taken:
            raise Refused(f"IP '{taken}' already in use.", error.status, error.code) from None
        raise
    found = _read_addresses(answer)
    wanted = body["addresses"]
    assert isinstance(wanted, list)
    chosen = [address for address in found if address not in wanted]
    counts = (sum(":" not in address for address in chosen), sum(":" in address for address in chosen))
    if counts != (body["ipv4"], body["ipv6"]) or not set(wanted) <= set(found):
        raise Failed(f"the agent gave {', '.join(found) or 'no address'}, which is not what was asked for")
    return found


def _forget(uid: str, ask: Ask) -> None:
    """The launch has no address, if the agent can still be asked; else the agent's collector takes them."""
    try:
        ask("/v1/ipam/release", {"handle": uid, "attributes": IS_MESOS}, True)
    except (NoAgent, Refused):
        return


def _read_addresses(answer: object) -> list[str]:
    found = answer.get("addresses") if isinstance(answer, dict) else None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Failed("the agent answers what cannot be understood; it is of another version")
    return [str(one).partition("/")[0] for one in found]


def _find_named(text: str, addresses: object) -> str:
    """Returns the first of the addresses that a text names, empty when it names none."""
    words = {word.strip(".,;:'\"()").partition("/")[0] for word in text.split()}
    return next((one for one in addresses if one in words), "") if isinstance(addresses, list) else ""
