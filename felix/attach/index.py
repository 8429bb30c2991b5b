"""Which containers are attached to this host, as far as the datastore has told: kept up to date record by record."""

from __future__ import annotations

from collections.abc import Iterator

from felix.attach.endpoint import Attachment, find_attachment
from felix.attach.names import Attached
from felix.model.keys import ResourceKey
from felix.model.net import Net


class AttachmentIndex:
    """The attachments of one host, by key, by who is attached, by interface and address; each change costs the same."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._by_key: dict[ResourceKey, Attachment] = {}
        self._keys_by_trait: dict[Attached | str | Net, dict[ResourceKey, None]] = {}

    def on_record(self, key: ResourceKey, record: object, revision: int) -> None:
        """The WorkloadEndpoint `key` is `record` now; None: there is none."""
        before = self._by_key.pop(key, None)
        if before is not None:
            for trait in _traits(before):
                keys = self._keys_by_trait[trait]
                del keys[key]
                if not keys:
                    del self._keys_by_trait[trait]
        found = find_attachment(key, record, self._node, revision)
        if found is not None:
            self._by_key[key] = found
            for trait in _traits(found):
                self._keys_by_trait.setdefault(trait, {})[key] = None

    def find(self, who: Attached) -> list[Attachment]:
        """Returns what is attached under that name; more than one only if its endpoints are in several namespaces."""
        return self._find(who)

    def find_interface(self, name: str) -> list[Attachment]:
        """Returns the attachments with that host's end."""
        return self._find(name)

    def find_address(self, address: Net) -> list[Attachment]:
        """Returns the attachments with that address."""
        return self._find(address)

    def get(self, key: ResourceKey) -> Attachment | None:
        """Returns the attachment of an endpoint."""
        return self._by_key.get(key)

    def __iter__(self) -> Iterator[Attachment]:
        return iter(list(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    def _find(self, trait: Attached | str | Net) -> list[Attachment]:
        return [self._by_key[key] for key in self._keys_by_trait.get(trait, ())]


def _traits(one: Attachment) -> set[Attached | str | Net]:
    """Returns by what an attachment is found."""
    return {one.who, one.host_interface, *one.addresses}
