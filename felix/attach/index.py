"""Which containers are attached to this host, as far as the datastore has told: kept up to date record by record."""

from __future__ import annotations

from collections.abc import Iterator

from felix.attach.endpoint import Attachment, find_attachment
from felix.attach.names import Attached
from felix.model.keys import ResourceKey


class AttachmentIndex:
    """The attachments of one host, by key and by who is attached; each change costs the same."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._by_key: dict[ResourceKey, Attachment] = {}
        self._keys_by_who: dict[Attached, dict[ResourceKey, None]] = {}

    def on_record(self, key: ResourceKey, record: object, revision: int) -> None:
        """The WorkloadEndpoint `key` is `record` now; None: there is none."""
        before = self._by_key.pop(key, None)
        if before is not None:
            keys = self._keys_by_who[before.who]
            del keys[key]
            if not keys:
                del self._keys_by_who[before.who]
        found = find_attachment(key, record, self._node, revision)
        if found is not None:
            self._by_key[key] = found
            self._keys_by_who.setdefault(found.who, {})[key] = None

    def find(self, who: Attached) -> list[Attachment]:
        """Returns what is attached under that name; more than one only if its endpoints are in several namespaces."""
        return [self._by_key[key] for key in self._keys_by_who.get(who, ())]

    def get(self, key: ResourceKey) -> Attachment | None:
        """Returns the attachment of an endpoint."""
        return self._by_key.get(key)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)
