"""The profiles that say who may talk with an attached container: its network's, its groups', its host's. Pure.

They are written when they are missing and never again: an operator's edit of one stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from felix.attach.names import host_profile, profile_name
from felix.attach.types import AttachRequest
from felix.model.keys import ResourceKey
from felix.model.metadata import API_VERSION
from felix.model.net import Net

PUBLIC = "public"
"""The group that everybody may talk to."""

GROUP_LABEL = "group.felix/"
_ALLOW = {"action": "Allow"}


def choose_profiles(request: AttachRequest, node: str) -> tuple[str, ...]:
    """Returns the names of all profiles of a container, in order: its host's, `public`, groups, network, others."""
    names: list[str] = []
    if request.groups is not None:
        names.append(host_profile(node))
        names += [PUBLIC] if PUBLIC in request.groups else []
        names += [profile_name(group) for group in request.groups if group != PUBLIC]
    if request.has_network_profile:
        names.append(profile_name(request.network))
    return tuple(dict.fromkeys((*names, *request.profiles)))


def make_profiles(
    request: AttachRequest, node: str, host_nets: Sequence[Net], now: float
) -> dict[ResourceKey, dict[str, object]]:
    """Returns the profiles that have to exist for a request, as they are when nobody has changed them, by key.

    host_nets: what `default_<node>` lets in and out, the host's own addresses first.
    """
    specs: dict[str, dict[str, object]] = {}
    if request.groups is not None:
        specs[host_profile(node)] = _host_spec(host_nets)
        for group in request.groups:
            specs.setdefault(profile_name(group), _public_spec() if group == PUBLIC else _group_spec(group))
    if request.has_network_profile:
        name = profile_name(request.network)
        specs.setdefault(name, _peers_spec(name))
    return {_key(name): _document(name, spec, now) for name, spec in specs.items()}


def _key(name: str) -> ResourceKey:
    return ResourceKey("Profile", "", name)


def _document(name: str, spec: dict[str, object], now: float) -> dict[str, object]:
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    metadata = {"name": name, "creationTimestamp": moment}
    return {"apiVersion": API_VERSION, "kind": "Profile", "metadata": metadata, "spec": spec}


def _peers_spec(label: str) -> dict[str, object]:
    """Returns what lets in everybody with the same profile, and everything out."""
    ingress = [{**_ALLOW, "source": {"selector": f"has({label})"}}]
    return {"labelsToApply": {label: ""}, "ingress": ingress, "egress": [_ALLOW]}


def _group_spec(group: str) -> dict[str, object]:
    return _peers_spec(GROUP_LABEL + profile_name(group))


def _public_spec() -> dict[str, object]:
    return {"labelsToApply": {GROUP_LABEL + PUBLIC: ""}, "ingress": [_ALLOW], "egress": [_ALLOW]}


def _host_spec(nets: Sequence[Net]) -> dict[str, object]:
    """Returns what lets in those networks and out to them; nobody when there is none."""
    texts = [str(net) for net in nets]
    if not texts:
        return {"ingress": [], "egress": []}
    return {
        "ingress": [{**_ALLOW, "source": {"nets": texts}}],
        "egress": [{**_ALLOW, "destination": {"nets": texts}}],
    }
