"""Types of single values that records share: closed sets of words, and ranges, as Calico's schemas state them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Action = Literal["Allow", "Deny", "Log", "Pass"]
PolicyType = Literal["Ingress", "Egress"]
IpVersion = Literal[4, 6]
TierEnding = Literal["Deny", "Pass"]
StagedAction = Literal["Set", "Delete", "Learn", "Ignore"]
# Calico's older tools store the empty text where they mean Never.
EncapsulationMode = Literal["", "Never", "Always", "CrossSubnet"]

IcmpType = Annotated[int, Meta(ge=0, le=254)]
IcmpCode = Annotated[int, Meta(ge=0, le=255)]
PortNumber = Annotated[int, Meta(ge=1, le=65535)]
AsNumber = Annotated[int, Meta(ge=0, le=4294967295)]
RoutePriority = Annotated[int, Meta(ge=1, le=2147483646)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Duration = Annotated[str, Meta(pattern=r"^$|^0$|^([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$")]
LogSeverity = Annotated[str, Meta(pattern=r"^(?i:Trace|Debug|Info|Warning|Error|Fatal)?$")]
