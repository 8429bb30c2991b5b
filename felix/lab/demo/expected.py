"""Who must reach whom in each stage, written down as it is in the specification, not computed. Pure.

Rows are sources, columns targets: the probes A to D on port 9000, the stage's collector on port 9001. `own host` is the
host on which the target runs, `other host` one on which it does not, `outside` the fabric, where no Felix is.
"""

from __future__ import annotations

from collections.abc import Mapping

from felix.errors import DataError

Pair = tuple[str, str]
Expected = Mapping[Pair, bool]

OWN_HOST, OTHER_HOST, OUTSIDE = "own host", "other host", "outside"
COLLECT = "collect"
PROBES = ("A", "B", "C", "D")


def read_table(text: str) -> dict[Pair, bool]:
    """Returns the cells of a table as it is written below; `-` is no cell. Raises DataError."""
    lines = [line.split("|") for line in text.strip().splitlines()]
    columns = lines[0][1].split()
    cells: dict[Pair, bool] = {}
    for name, words in lines[1:]:
        row = words.split()
        if len(row) != len(columns) or not set(row) <= {"yes", "no", "-"}:
            raise DataError(f"row {name.strip()!r}: expected {len(columns)} of yes, no and -, saw {words.strip()!r}")
        source = name.strip()
        cells |= {(source, column): word == "yes" for column, word in zip(columns, row, strict=True) if word != "-"}
    return cells


# Containers that share their hosts' addresses: whoever runs is open to everybody. Two of the four do, `X` and `Y`.
SHARED_ADDRESSES = read_table("""
            | X    Y    collect
 X          | -    yes  yes
 Y          | yes  -    yes
 collect    | yes  yes  -
 outside    | yes  yes  yes
""")

# One address per container, all of them in the group `public`.
ALL_PUBLIC = read_table("""
            | A    B    C    D    collect
 A          | -    yes  yes  yes  yes
 B          | yes  -    yes  yes  yes
 C          | yes  yes  -    yes  yes
 D          | yes  yes  yes  -    yes
 collect    | yes  yes  yes  yes  -
 own host   | yes  yes  yes  yes  yes
 other host | yes  yes  yes  yes  yes
 outside    | yes  yes  yes  yes  yes
""")

# A and B are in star-1, C and D in star-2, the collector is in both and in `public`.
ISOLATED = read_table("""
            | A    B    C    D    collect
 A          | -    yes  no   no   yes
 B          | yes  -    no   no   yes
 C          | no   no   -    yes  yes
 D          | no   no   yes  -    yes
 collect    | yes  yes  yes  yes  -
 stage 2    | no   no   no   no   yes
 own host   | yes  yes  yes  yes  yes
 other host | no   no   no   no   yes
 outside    | no   no   no   no   yes
""")

# What containers of stage 3 reach of the other stages: stage 2 is public, stage 1 is on the hosts.
FROM_ISOLATED = read_table("""
            | stage-2  stage-1
 A          | yes      yes
 B          | yes      yes
 C          | yes      yes
 D          | yes      yes
""")

# The group star-1 lets in TCP 9000 of its members and nothing else: by ICMP, C and D are as before.
ISOLATED_NARROW_PING = read_table("""
            | A    B    C    D    collect
 A          | -    no   no   no   yes
 B          | no   -    no   no   yes
 C          | no   no   -    yes  yes
 D          | no   no   yes  -    yes
 collect    | no   no   yes  yes  -
 stage 2    | no   no   no   no   yes
 own host   | yes  yes  yes  yes  yes
 other host | no   no   no   no   yes
 outside    | no   no   no   no   yes
""")

# D has moved from star-2 to star-1.
ISOLATED_MOVED = read_table("""
            | A    B    C    D    collect
 A          | -    yes  no   yes  yes
 B          | yes  -    no   yes  yes
 C          | no   no   -    no   yes
 D          | yes  yes  no   -    yes
 collect    | yes  yes  yes  yes  -
 stage 2    | no   no   no   no   yes
 own host   | yes  yes  yes  yes  yes
 other host | no   no   no   no   yes
 outside    | no   no   no   no   yes
""")


def rename(expected: Expected, names: Mapping[str, str]) -> dict[Pair, bool]:
    """Returns the cells with other names for those that `names` has."""
    return {
        (names.get(source, source), names.get(target, target)): value for (source, target), value in expected.items()
    }


def without_rows(expected: Expected, *sources: str) -> dict[Pair, bool]:
    """Returns the cells without those of some sources."""
    return {pair: value for pair, value in expected.items() if pair[0] not in sources}


def between_probes(expected: Expected) -> dict[Pair, bool]:
    """Returns the cells from one probe to another: those that the page shows."""
    return {pair: value for pair, value in expected.items() if set(pair) <= set(PROBES)}
