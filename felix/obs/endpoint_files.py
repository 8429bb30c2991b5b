"""A file per connected endpoint, for whoever must wait until a workload is protected before starting it.

Calico's CNI plug-in waits for such a file: it stands in `<prefix>/endpoint-status/`, is named
`<orchestrator> <namespace/workload> <endpoint>` with each part percent-escaped, and holds JSON with `ifaceName`, `mac`,
`ipv4Nets` and `ipv6Nets`. The file exists if and only if the kernel enforces the endpoint's policy.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from urllib.parse import quote

from felix.calc.desired import LocalEndpoint

_UNESCAPED = "$&+=:@~"  # what Go's url.PathEscape leaves alone, besides letters, digits, '-', '_' and '.'


def format_file_name(orchestrator: str, namespace: str, workload: str, endpoint: str) -> str:
    """Returns the file's name for one workload endpoint, as Calico's tools compute it."""
    parts = (orchestrator, f"{namespace}/{workload}", endpoint)
    return " ".join(quote(part, safe=_UNESCAPED) for part in parts)


def render_endpoint_file(endpoint: LocalEndpoint) -> bytes:
    """Returns the JSON text that describes a connected endpoint."""
    document: dict[str, object] = {"ifaceName": endpoint.interface}
    if endpoint.mac:
        document["mac"] = endpoint.mac
    for field, version in (("ipv4Nets", 4), ("ipv6Nets", 6)):
        nets = [str(net) for net in endpoint.addresses if net.version == version]
        if nets:
            document[field] = nets
    return json.dumps(document).encode()


class EndpointFiles:
    """The directory of endpoint files; knows what it holds, so that what is right is not written again."""

    def __init__(self, prefix: Path) -> None:
        self._directory = prefix / "endpoint-status"
        self._content_by_name: dict[str, bytes] = {}

    def load(self) -> None:
        """What an earlier run left is known from now on; the directory exists. Raises OSError when it cannot."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in self._directory.iterdir():
            if path.name.startswith("."):  # an unfinished write of a run that was killed
                path.unlink(missing_ok=True)
            elif path.is_file():
                self._content_by_name[path.name] = path.read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """The file has that content; it is replaced in one step, and left alone when it is right already."""
        if self._content_by_name.get(name) == content:
            return
        temporary = self._directory / f".{name}"
        temporary.write_bytes(content)
        os.replace(temporary, self._directory / name)
        self._content_by_name[name] = content

    def drop(self, name: str) -> None:
        """The file is gone."""
        if self._content_by_name.pop(name, None) is not None:
            with contextlib.suppress(FileNotFoundError):
                (self._directory / name).unlink()

    def keep_only(self, names: set[str]) -> None:
        """Files of endpoints that are not in `names` are gone; for the first time that everything is known."""
        for name in self._content_by_name.keys() - names:
            self.drop(name)
