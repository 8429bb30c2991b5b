"""Tables with lines around their cells, as calicoctl draws them for address management."""

from __future__ import annotations

from collections.abc import Sequence


def render_grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns the table as text: heads centred, cells on the left, a line break at the end."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+\n"
    heads = "|" + "|".join(f" {cell.center(width)} " for cell, width in zip(head, widths, strict=True)) + "|\n"
    body = "".join(
        "|" + "|".join(f" {cell.ljust(width)} " for cell, width in zip(row, widths, strict=True)) + "|\n"
        for row in rows
    )
    return line + heads + line + body + (line if rows else "")
