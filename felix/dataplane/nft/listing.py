"""Reading what `nft --stateless --terse --numeric list table` prints.

Nothing here fails: what cannot be understood makes the table "not plain", and such a table is written anew.
"""

from __future__ import annotations

from felix.dataplane.nft.types import TABLE, KernelTable, Lines, ObjectName


def parse_listing(text: str) -> KernelTable:
    """Returns the table without elements; an empty text means that there is no table."""
    table = KernelTable()
    block: list[str] | None = None
    head = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if block is not None:
            if line == "\t}":
                _note(table, head, tuple(block))
                block = None
            else:
                block.append(line.strip())
        elif line == f"table inet {TABLE} {{":
            table.exists = True
        elif line.startswith("\t") and line.endswith(" {"):
            head, block = line[1:-2], []
        elif line != "}":
            table.is_plain = False
    if block is not None:
        table.is_plain = False
    return table


def _note(table: KernelTable, head: str, lines: Lines) -> None:
    # Terse listings of sets leave elements out; nft of some versions prints a place holder.
    words = head.split()
    if len(words) == 2 and words[0] == "chain":
        table.chains[words[1]] = lines
    elif len(words) >= 2:
        table.objects[ObjectName(" ".join(words[:-1]), words[-1])] = lines
    else:
        table.is_plain = False
