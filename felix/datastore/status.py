"""Status keys as Calico lays them out, and their JSON. Nobody's forwarding depends on them."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

NO_REGION = "no-region"


class EndpointState(enum.Enum):
    """What became of an endpoint: working, not (yet) there, or not programmable."""

    UP = "up"
    DOWN = "down"
    ERROR = "error"


class WorkloadId(NamedTuple):
    """How status keys name a workload endpoint. workload: `<namespace>/<workload>` in Calico v3."""

    orchestrator: str
    workload: str
    endpoint: str


class StatusKeys(NamedTuple):
    """The status keys of one host. region has no slash."""

    hostname: str
    region: str = NO_REGION

    @property
    def agent(self) -> str:
        """Says that the agent lives; leased."""
        return f"/calico/felix/v2/{self.region}/host/{self.hostname}/status"

    @property
    def agent_last(self) -> str:
        """Says when the agent lived; stays."""
        return f"/calico/felix/v2/{self.region}/host/{self.hostname}/last_reported_status"

    @property
    def workloads(self) -> str:
        """Prefix of the status of every workload endpoint of the host."""
        return f"/calico/felix/v2/{self.region}/host/{self.hostname}/workload/"

    @property
    def host_endpoints(self) -> str:
        """Prefix of the status of every host endpoint of the host."""
        return f"/calico/felix/v1/host/{self.hostname}/endpoint/"

    def workload(self, name: WorkloadId) -> str:
        """Key of one workload endpoint's status."""
        orchestrator, workload, endpoint = map(_escape, name)
        return f"{self.workloads}{orchestrator}/{workload}/endpoint/{endpoint}"

    def host_endpoint(self, name: str) -> str:
        """Key of one host endpoint's status."""
        return f"{self.host_endpoints}{_escape(name)}"


def render_endpoint_status(state: EndpointState) -> bytes:
    """Returns the value of an endpoint's status key."""
    return msgspec.json.encode({"status": state.value})


def render_agent_status(wall_s: float, uptime_s: float, *, is_first: bool) -> bytes:
    """Returns the value of the agent's status keys. wall_s: seconds since 1970; is_first: the first since its start."""
    time = datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.json.encode({"time": time, "uptime": round(uptime_s, 3), "first_update": is_first})


def _escape(name: str) -> str:
    return name.replace("%", "%25").replace("/", "%2f")
