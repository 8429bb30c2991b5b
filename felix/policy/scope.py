"""What the texts of a policy mean once its namespace is taken into account: the selectors that decide about members.

This is the one place where a policy's words become selectors; the reference meaning and calculation both use it.
The rules are those of Calico:
- a NetworkPolicy selects endpoints of its own namespace only;
- a rule of it that names endpoints (by selector or notSelector) means those of its own namespace, unless it has a
  namespaceSelector, which then decides alone; a rule that names only nets or nothing is not restricted;
- namespaces lend their labels to what is inside them with the prefix `pcns.`, by a profile `kns.<namespace>`;
- namespaceSelector `all()` means "in some namespace", `global()` "in none".
"""

from __future__ import annotations

from collections.abc import Mapping

from felix.model.records import EntityRule, WorkloadEndpoint
from felix.selector.ast import NAMESPACE_LABEL, All, Compare, Node, all_of, prefix_labels
from felix.selector.parse import Selector, make_selector, parse

ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
SERVICE_ACCOUNT_LABEL = "projectcalico.org/serviceaccount"
NAMESPACE_PREFIX = "pcns."
SERVICE_ACCOUNT_PREFIX = "pcsa."
NAMESPACE_PROFILE_PREFIX = "kns."


def rule_selectors(policy_namespace: str, entity: EntityRule) -> tuple[Selector | None, Selector | None]:
    """Returns the selector that one side of a rule must satisfy and the one that it must not; None: no condition.

    policy_namespace: empty for a policy or profile that is in none.
    An address satisfies a selector when it is one of an endpoint, or inside a net of a network set, that the selector
    matches. Raises SelectorError when a text is no selector.
    """
    conditions: list[Node] = []
    if entity.namespace_selector:
        conditions.append(prefix_labels(parse(entity.namespace_selector).root, NAMESPACE_PREFIX))
    elif policy_namespace and (entity.selector or entity.not_selector):
        conditions.append(_in_namespace(policy_namespace))
    if entity.selector:
        conditions.append(parse(entity.selector).root)
    return _join(conditions), parse(entity.not_selector) if entity.not_selector else None


def policy_selector(namespace: str, selector: str, namespace_selector: str = "") -> Selector:
    """Returns the selector of the endpoints that a policy applies to.

    namespace: that of a NetworkPolicy, empty for a GlobalNetworkPolicy. namespace_selector: of the latter only.
    Raises SelectorError when a text is no selector.
    """
    conditions: list[Node] = []
    if namespace:
        conditions.append(_in_namespace(namespace))
    elif namespace_selector:
        conditions.append(prefix_labels(parse(namespace_selector).root, NAMESPACE_PREFIX))
    conditions.append(parse(selector).root)
    joined = _join(conditions)
    return parse("all()") if joined is None else joined


def _in_namespace(namespace: str) -> Node:
    return Compare(NAMESPACE_LABEL, "==", namespace)


def _join(conditions: list[Node]) -> Selector | None:
    if not conditions:
        return None
    # `all()` beside another condition says nothing; without it more rules share one address set.
    telling = [node for node in conditions if not isinstance(node, All)]
    return make_selector(all_of(telling) if telling else All())


def endpoint_labels(endpoint: WorkloadEndpoint) -> dict[str, str]:
    """Returns the labels by which selectors see a workload endpoint, without those of its profiles.

    What says where it is comes from the record itself: a workload cannot pretend to be in another namespace.
    """
    own = _strip_reserved(endpoint.metadata.labels)
    own[NAMESPACE_LABEL] = endpoint.metadata.namespace
    if endpoint.spec.orchestrator:
        own[ORCHESTRATOR_LABEL] = endpoint.spec.orchestrator
    if endpoint.spec.service_account_name:
        own[SERVICE_ACCOUNT_LABEL] = endpoint.spec.service_account_name
    return own


def network_set_labels(namespace: str, labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels by which selectors see a network set; `namespace` is empty for a GlobalNetworkSet."""
    own = _strip_reserved(labels)
    if namespace:
        own[NAMESPACE_LABEL] = namespace
    return own


def network_set_parents(namespace: str) -> tuple[str, ...]:
    """Returns the profiles whose labels a network set inherits: that of its namespace, if it has one."""
    return (NAMESPACE_PROFILE_PREFIX + namespace,) if namespace else ()


def host_endpoint_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels by which selectors see a host endpoint; it is in no namespace whatever its labels say."""
    return _strip_reserved(labels)


def _strip_reserved(labels: Mapping[str, str]) -> dict[str, str]:
    reserved = (NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX)
    return {name: value for name, value in labels.items() if name != NAMESPACE_LABEL and not name.startswith(reserved)}
