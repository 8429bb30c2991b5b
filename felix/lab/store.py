"""The lab's own small view of etcd: its JSON gateway over a Unix socket, without the agent's client. Shell.

A Unix socket needs no network, so it works from any namespace, the machine's own included.
"""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from felix.errors import PeerError
from felix.ipam.draft import Draft

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Document = dict[str, Json]


class LabStore:
    """Reads and writes JSON documents in the lab's etcd. Methods raise PeerError when it is away."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path

    def put(self, key: str, document: Mapping[str, Json] | str) -> int:
        """The key holds the document (a string is written as it is); returns the revision."""
        text = document if isinstance(document, str) else json.dumps(document)
        answer = self._call("kv/put", {"key": _encode(key), "value": _encode(text)})
        return _revision(answer)

    def get(self, key: str) -> tuple[Document, int] | None:
        """Returns document and mod revision of the key, or None."""
        for _, document, revision in self._range({"key": _encode(key)}):
            return document, revision
        return None

    def list_prefix(self, prefix: str) -> dict[str, Document]:
        """Returns all documents whose key starts with `prefix`, by key in order."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        rows = self._range({"key": _encode(prefix), "range_end": _encode(end)})
        return {key: document for key, document, _ in rows}

    def read(self, key: str) -> tuple[bytes, int] | None:
        """Returns value and mod revision of the key, or None."""
        for row in self._rows({"key": _encode(key)}):
            return base64.b64decode(str(row["value"])), int(str(row["mod_revision"]))
        return None

    def commit(self, draft: Draft) -> bool:
        """Everything of the draft is written, if all its keys are as it expects; returns whether."""
        compares: list[Json] = [
            {"key": _encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}
            for key, revision in draft.revision_by_key.items()
        ]
        writes: list[Json] = [
            {"request_delete_range": {"key": _encode(key)}}
            if value is None
            else {"request_put": {"key": _encode(key), "value": base64.b64encode(value).decode()}}
            for key, value in draft.value_by_key.items()
        ]
        return bool(self._call("kv/txn", {"compare": compares, "success": writes}).get("succeeded"))

    def delete(self, key: str) -> None:
        """The key does not exist."""
        self._call("kv/deleterange", {"key": _encode(key)})

    def wait_ready(self, timeout_s: float) -> None:
        """etcd answers reads; raises PeerError after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.get("/")
                return
            except PeerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _range(self, request: Document) -> list[tuple[str, Document, int]]:
        return [
            (_decode(row["key"]), json.loads(_decode(row.get("value"))), int(str(row["mod_revision"])))
            for row in self._rows(request)
        ]

    def _rows(self, request: Document) -> list[Document]:
        rows = self._call("kv/range", request).get("kvs")
        return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []

    def _call(self, path: str, request: Mapping[str, Json]) -> Document:
        connection = _UnixConnection(self.socket_path)
        try:
            connection.request("POST", f"/v3/{path}", json.dumps(request), {"Content-Type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as failure:
            raise PeerError(
                f"the lab's etcd does not answer at {self.socket_path}: {failure}; is it stopped? felix lab start etcd"
            ) from failure
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise PeerError(f"the lab's etcd refused {path}: {response.status} {body.decode(errors='replace')}")
        answer: Document = json.loads(body)
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(value: Json) -> str:
    return base64.b64decode(value).decode() if isinstance(value, str) else ""


def _revision(answer: Document) -> int:
    header = answer.get("header")
    return int(str(header["revision"])) if isinstance(header, dict) else 0
