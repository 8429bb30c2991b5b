"""From stored bytes to calculation: what each key holds now, and everything that is wrong with what is stored. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from felix.attach.index import AttachmentIndex
from felix.calc.graph import CalcGraph
from felix.errors import Problem
from felix.model.codec import decode
from felix.model.endpoints import ProfileSpec
from felix.model.keys import Key, ResourceKey, format_key, parse_key
from felix.model.metadata import Metadata
from felix.model.net import Net
from felix.model.records import ClusterInformation, FelixConfiguration, Profile, Record, Rule, WorkloadEndpoint

_DEFAULT_ALLOW = ResourceKey("Profile", "", "projectcalico-default-allow")
_ALLOW = (Rule("Allow"),)
# Calico never stores this profile: whoever reads profiles finds it there.
_BUILT_IN: dict[Key, Record] = {
    _DEFAULT_ALLOW: Profile(
        metadata=Metadata(name=_DEFAULT_ALLOW.name), spec=ProfileSpec(ingress=_ALLOW, egress=_ALLOW)
    )
}


class EndpointIdentity(NamedTuple):
    """How status keys and files name a workload endpoint."""

    orchestrator: str
    namespace: str
    workload: str
    endpoint: str


class Intake:
    """Feeds a calculation graph; remembers what the agent itself needs of the records.

    reserved: addresses that no workload may have. identities: of this host's workload endpoints. attachments: those of
    them that this host's agent made.
    configurations: `spec` of each FelixConfiguration, by name.
    """

    def __init__(self, hostname: str, reserved: Iterable[Net] = ()) -> None:
        self.graph = CalcGraph(hostname, reserved)
        self.identities: dict[ResourceKey, EndpointIdentity] = {}
        self.attachments = AttachmentIndex(hostname)
        self.configurations: dict[str, Mapping[str, object]] = {}
        self.is_datastore_ready = True
        self.has_new_configuration = False
        self._hostname = hostname
        self._decoding: dict[Key, tuple[Problem, ...]] = {}
        self._calculation: dict[Key, tuple[Problem, ...]] = {}
        self._news: dict[Key, None] = {}
        for key, record in _BUILT_IN.items():
            self.graph.on_update(key, record)

    def on_update(self, path: str, value: bytes | None, revision: int) -> str:
        """The etcd key `path` holds `value` at mod revision `revision`, or nothing; returns the kind, "" for no kind
        that Felix knows. Nothing is told by the graph before its flush.
        """
        key = parse_key(path)
        if key is None:
            return ""
        record, problems = (None, ()) if value is None else decode(key, value)
        if problems or key in self._decoding:
            self._note(self._decoding, key, problems)
        if isinstance(key, ResourceKey):
            self._remember(key, record, is_stored=value is not None)
            if key.kind == "WorkloadEndpoint":
                self.attachments.on_record(key, record, revision)
        self.graph.on_update(key, record or _BUILT_IN.get(key), revision)
        return key.kind if isinstance(key, ResourceKey) else type(key).__name__

    def pop_problems(self) -> dict[str, tuple[Problem, ...]]:
        """Returns all problems of each object of which they changed since the last call; empty: none any more.

        Keys are etcd keys. Call it after a flush of the graph.
        """
        for key, problems in self.graph.pop_problems().items():
            self._note(self._calculation, key, problems)
        news, self._news = self._news, {}
        return {format_key(key): self._decoding.get(key, ()) + self._calculation.get(key, ()) for key in news}

    def _note(self, problems_by_key: dict[Key, tuple[Problem, ...]], key: Key, problems: tuple[Problem, ...]) -> None:
        if problems_by_key.get(key, ()) == problems:
            return
        self._news[key] = None
        if problems:
            problems_by_key[key] = problems
        else:
            del problems_by_key[key]

    def _remember(self, key: ResourceKey, record: Record | None, *, is_stored: bool) -> None:
        if record is None and is_stored and key.kind in ("FelixConfiguration", "ClusterInformation"):
            return  # it cannot be read: what it said before goes on to count
        match key.kind:
            case "WorkloadEndpoint":
                self._remember_identity(key, record if isinstance(record, WorkloadEndpoint) else None)
            case "FelixConfiguration":
                self.has_new_configuration = True
                if isinstance(record, FelixConfiguration):
                    self.configurations[key.name] = record.spec
                else:
                    self.configurations.pop(key.name, None)
            case "ClusterInformation":
                is_held = isinstance(record, ClusterInformation) and record.spec.datastore_ready is False
                self.is_datastore_ready = not is_held

    def _remember_identity(self, key: ResourceKey, record: WorkloadEndpoint | None) -> None:
        if record is None or record.spec.node != self._hostname:
            self.identities.pop(key, None)
            return
        spec = record.spec
        self.identities[key] = EndpointIdentity(spec.orchestrator, key.namespace, spec.workload, spec.endpoint)
