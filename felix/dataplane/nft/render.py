"""Plans as text for libnftables: for what `transaction` has no messages for. Every text is one transaction."""

from __future__ import annotations

from collections.abc import Iterable

from felix.dataplane.nft.types import TABLE, Lines, ObjectName, TableWrite


def render_write(write: TableWrite) -> str:
    """Returns the text that does the whole of `write`."""
    texts = []
    if write.objects or write.chains or write.rebuilds:
        existing = [name for name, _ in write.chains if name in write.existing]
        texts.append(render_table(write.objects, write.chains, existing, rebuilds=write.rebuilds))
    if write.removed_chains or write.removed_objects:
        texts.append(render_deleted(write.removed_chains, write.removed_objects))
    return "".join(texts)


def render_table(
    objects: Iterable[tuple[ObjectName, Lines]],
    chains: Iterable[tuple[str, Lines]],
    existing: Iterable[str] = (),
    *,
    rebuilds: bool = False,
) -> str:
    """Returns the text after which objects are declared and the chains have exactly these lines.

    existing: chains that may be there; they are emptied in the same transaction. The table is declared anew in any
    case, which also wakes a dormant one. rebuilds: the whole old table goes first, in the same transaction.
    """
    lines = [f"add table inet {TABLE}"]
    if rebuilds:
        lines += [f"delete table inet {TABLE}", f"add table inet {TABLE}"]
    else:
        lines += [f"flush chain inet {TABLE} {name}" for name in existing]
    lines.append(f"table inet {TABLE} {{")
    for (kind, name), body in objects:
        lines += _block(f"{kind} {name}", body)
    for name, body in chains:
        lines += _block(f"chain {name}", body)
    lines += ["}", ""]
    return "\n".join(lines)


def render_declared_closed(names: Iterable[str], closed: Lines) -> str:
    """Returns the text after which new chains exist and drop."""
    return render_table((), ((name, closed) for name in names))


def render_deleted(chains: Iterable[str], objects: Iterable[ObjectName]) -> str:
    """Returns the text after which chains and objects are gone; chains are emptied first, since they refer to both."""
    chains = tuple(chains)
    lines = [f"flush chain inet {TABLE} {name}" for name in chains]
    lines += [f"delete {kind} inet {TABLE} {name}" for kind, name in objects]
    lines += [f"delete chain inet {TABLE} {name}" for name in chains]
    lines.append("")
    return "\n".join(lines)


def _block(head: str, body: Lines) -> list[str]:
    return [f"\t{head} {{", *(f"\t\t{line}" for line in body), "\t}"]
