"""Records of address space: network sets, pools, and the blocks of address management."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, field

from felix.model.metadata import Resource, Spec
from felix.model.scalars import EncapsulationMode


class NetworkSetSpec(Spec, frozen=True, gc=False):
    """Prefixes of either family that rules find by the set's labels."""

    nets: tuple[str, ...] = ()


class NetworkSet(Resource, frozen=True, gc=False, kw_only=True):
    """Named prefixes of one namespace."""

    spec: NetworkSetSpec


class GlobalNetworkSet(Resource, frozen=True, gc=False, kw_only=True):
    """Named prefixes of no namespace."""

    spec: NetworkSetSpec


class IPPoolSpec(Spec, frozen=True, gc=False):
    """Addresses for workloads. block_size: prefix length of a block; after decoding never 0. A mode of "" is Never."""

    cidr: str
    block_size: Annotated[int, Meta(ge=0, le=128)] = 0
    ipip_mode: EncapsulationMode = "Never"
    vxlan_mode: EncapsulationMode = "Never"
    nat_outgoing: bool = False
    disabled: bool = False
    disable_bgp_export: bool = field(default=False, name="disableBGPExport")
    node_selector: str = ""
    namespace_selector: str = ""
    allowed_uses: tuple[Literal["Workload", "Tunnel", "LoadBalancer"], ...] = ()
    assignment_mode: Literal["", "Automatic", "Manual"] = "Automatic"


class IPPool(Resource, frozen=True, gc=False, kw_only=True):
    """A prefix out of which workloads get addresses."""

    spec: IPPoolSpec


class IPReservationSpec(Spec, frozen=True, gc=False):
    """Prefixes of either family."""

    reserved_cidrs: tuple[str, ...] = field(default=(), name="reservedCIDRs")


class IPReservation(Resource, frozen=True, gc=False, kw_only=True):
    """Addresses that nobody gets who does not ask for them by name."""

    spec: IPReservationSpec


class IPAMConfigurationSpec(Spec, frozen=True, gc=False, omit_defaults=False):
    """How addresses are given out. max_blocks_per_host: 0 is Calico's own limit, 20."""

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    kube_virt_vm_address_persistence: Literal["Enabled", "Disabled"] | None = field(
        default=None, name="kubeVirtVMAddressPersistence"
    )


class IPAMConfiguration(Resource, frozen=True, gc=False, kw_only=True):
    """How addresses are given out in the cluster; there is one, named `default`."""

    spec: IPAMConfigurationSpec


class BlockAffinity(msgspec.Struct, frozen=True, gc=False, rename="camel", omit_defaults=True):
    """That a host holds a block. state: `confirmed`, `pending` or `pendingDeletion`; only the first one counts."""

    state: str = ""
    deleted: bool = False


class AllocationAttribute(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who holds addresses of a block. handle_id: may be None."""

    handle_id: str | None = None
    secondary: dict[str, str] | None = None


class AllocationBlock(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    """A block of addresses and who holds each.

    affinity: `host:<node>`, `virtual:<name>` or None. allocations: for each address an index into `attributes`, or
    None when it is free. unallocated: ordinals of free addresses, the one to be given next first.
    """

    cidr: str
    affinity: str | None = None
    allocations: tuple[int | None, ...] = ()
    unallocated: tuple[int, ...] = ()
    attributes: tuple[AllocationAttribute, ...] = ()
    deleted: bool = False
    sequence_number: int = 0
    sequence_number_for_allocation: dict[str, int] | None = None
