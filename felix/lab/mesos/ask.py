"""What the commands of `felix lab mesos` ask of a master that holds the agents. Shell.

The master answers on the lab's fabric; who asks goes there with a socket of that namespace.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Mapping

import msgspec

from felix.errors import DataError, PeerError
from felix.lab.lab import Lab
from felix.lab.mesos.containers import Checkpoints
from felix.lab.mesos.serve import MARATHON_PORT
from felix.lab.mesos.types import Container
from felix.lab.names import FABRIC_ADDRESS_V4

_ANSWER_S = 10.0
_DEPLOYED_S = 300.0
_LOOK_S = 0.1


class MasterClient:
    """Asks the master of a lab. Methods raise PeerError when it is gone, DataError when it refuses."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab

    def read(self, path: str) -> object:
        """Returns the JSON of an address."""
        return self._ask("GET", path, None)

    def put(self, path: str, document: object) -> None:
        """The group is as the document says; raises DataError with the reason when it could not be made so."""
        self._deploy("PUT", path, document)

    def delete(self, path: str) -> None:
        """Nothing of the application or group runs."""
        self._deploy("DELETE", path, None)

    def _deploy(self, method: str, path: str, document: object) -> None:
        answer = self._ask(method, path, document)
        number = answer.get("deploymentId") if isinstance(answer, dict) else None
        deadline = time.monotonic() + _DEPLOYED_S
        while number in [one.get("id") for one in self._listed("/v2/deployments")]:
            if time.monotonic() > deadline:
                raise PeerError(f"the master has been at {path} for {_DEPLOYED_S:g} s; see: felix lab mesos status")
            time.sleep(_LOOK_S)
        overview = self.read("/overview")
        failure = overview["failures"].get(number) if isinstance(overview, dict) else None
        if failure:
            raise DataError(f"{path.removeprefix('/v2')}: {failure}")

    def _listed(self, path: str) -> list[Mapping[str, object]]:
        found = self.read(path)
        return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def _ask(self, method: str, path: str, document: object) -> object:
        connection = http.client.HTTPConnection(FABRIC_ADDRESS_V4, MARATHON_PORT, timeout=_ANSWER_S)
        try:
            connection.sock = self._lab.fabric.open(FABRIC_ADDRESS_V4, MARATHON_PORT, timeout_s=_ANSWER_S)
            connection.request(method, path, None if document is None else msgspec.json.encode(document))
            response = connection.getresponse()
            body = msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as failure:
            raise PeerError(f"the simulated master does not answer {method} {path}: {failure}") from failure
        finally:
            connection.close()
        if response.status // 100 != 2:
            raise DataError(str(body.get("message", body)) if isinstance(body, dict) else str(body))
        return body


def find_master(lab: Lab) -> MasterClient | None:
    """Returns the master that holds the lab's agents; None when there is none."""
    client = MasterClient(lab)
    with contextlib.suppress(PeerError, DataError):
        client.read("/v2/info")
        return client
    return None


def read_containers(lab: Lab) -> list[tuple[str, Container]]:
    """Returns all containers by their check-points, each with the name of its host; nothing is held or changed."""
    return [
        (host.name, container)
        for host in lab.hosts
        for container in Checkpoints(lab.directory / "mesos" / host.name).read()
    ]
