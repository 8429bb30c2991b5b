"""Lines of rules as the golden files have them, and what has to be declared before a kernel takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from felix.dataplane.nft.types import Lines, ObjectName

_EXPECTED = Path(__file__).parent.parent / "golden" / "expected" / "nft"
_TYPES = {
    "ip saddr": "ipv4_addr",
    "ip daddr": "ipv4_addr",
    "ip6 saddr": "ipv6_addr",
    "ip6 daddr": "ipv6_addr",
    "iifname": "ifname",
    "oifname": "ifname",
    "meta l4proto": "inet_proto",
    "ether saddr": "ether_addr",
} | {f"{word} {end}port": "inet_service" for word in ("tcp", "udp", "sctp", "udplite") for end in "sd"}
_FIELD = r"(?:ip6? [sd]addr|[io]ifname|meta l4proto|ether saddr|(?:tcp|udp|sctp|udplite) [sd]port)"
_LOOK_UP = re.compile(rf"({_FIELD}(?: \. {_FIELD})*) (?:!= )?(v?map )?@(\S+)")
_COMMENT = re.compile(r' comment "[^"]*"$')


def golden_chains() -> Iterator[tuple[str, Lines]]:
    """Yields the file and the lines of every chain that a golden file has; of rules alone, each as a chain."""
    for path in sorted(_EXPECTED.iterdir()):
        lines = path.read_text().splitlines()
        if path.suffix == ".nft":
            yield from ((path.name, chain) for chain in _blocks(lines))
        else:
            found = (line.strip() for line in lines if line.startswith("    ") and not line.startswith("    ("))
            yield from ((path.name, (line,)) for line in found)


def _blocks(lines: Iterable[str]) -> Iterator[Lines]:
    block: list[str] | None = None
    for line in map(str.strip, lines):
        if line.startswith("chain "):
            block = []
        elif line == "}" and block is not None:
            yield tuple(block)
            block = None
        elif block is not None:
            block.append(line)


def find_needs(lines: Iterable[str]) -> dict[ObjectName, Lines]:
    """Returns the sets, maps, counters and chains (of no lines) that these lines name."""
    needs: dict[ObjectName, Lines] = {}
    for line in lines:
        bare = _COMMENT.sub("", line)
        for key, kind, name in _LOOK_UP.findall(bare):
            type_ = " . ".join(_TYPES[field] for field in key.split(" . "))
            if kind == "vmap ":
                needs[ObjectName("map", name)] = (f"type {type_} : verdict",)
            elif kind:
                needs[ObjectName("map", name)] = (f"type {type_} : {type_}",)
            else:
                needs[ObjectName("set", name)] = (f"type {type_}",)
        for name in re.findall(r"update @(\S+)", bare):
            type_ = "ipv6_addr" if name.endswith("6") else "ipv4_addr"
            needs[ObjectName("set", name)] = (f"type {type_}", "size 65536", "flags dynamic,timeout", "timeout 60s")
        for name in re.findall(r"(?:jump|goto) ([^\s,]+)", bare):
            needs[ObjectName("chain", name)] = ()
        for name in re.findall(r'counter name "([^"]+)"', bare):
            needs[ObjectName("counter", name)] = ()
    return needs
