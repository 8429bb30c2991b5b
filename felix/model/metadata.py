"""What every v3 resource has: metadata, and the frame of kind, apiVersion and metadata around its spec."""

from __future__ import annotations

import msgspec

API_VERSION = "projectcalico.org/v3"


class Metadata(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """Who a resource is.

    name, namespace: after decoding always those of its key. resource_version: etcd's mod revision, in documents for
    people only; it is never stored. creation_timestamp: RFC 3339, set once by whoever creates the resource.
    """

    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: str | None = None


class Resource(msgspec.Struct, frozen=True, gc=False, rename="camel", kw_only=True, tag_field="kind", tag=True):
    """The frame of every v3 resource; each kind is a class of the same name with a `spec` of its own."""

    api_version: str = API_VERSION
    metadata: Metadata = Metadata()


class Spec(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """The base of what stands under `spec` and below. Fields that a class does not name are ignored on reading."""
