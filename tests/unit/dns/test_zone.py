"""The zone against a plain dictionary of owners: counted records, changed names, parents."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from felix.dns.zone import Datum, Record, Zone

NAMES = ["a.x", "b.x", "c.a.x", "x", "d.c.a.x"]
RECORDS = st.lists(
    st.builds(Record, st.sampled_from(NAMES), st.sampled_from(["A", "AAAA"]), st.sampled_from(["1", "2"]), st.just(0)),
    max_size=4,
)


def view(zone: Zone) -> dict[str, object]:
    parents = {"x", "a.x", "c.a.x", "d.c.a.x", "b.x"}
    return {
        name: (
            {rtype: sorted(zone.find(name, rtype)) for rtype in zone.find_types(name)},
            zone.has_below(name),
        )
        for name in parents
    }


@given(st.lists(st.tuples(st.integers(0, 3), RECORDS), max_size=20))
def test_zone_is_the_union_of_its_owners_and_names_every_change(steps: list[tuple[int, list[Record]]]) -> None:
    zone = Zone()
    owners: dict[int, list[Record]] = {}
    before = view(zone)
    for owner, records in steps:
        zone.put(owner, records)
        owners[owner] = records
        expected: dict[str, dict[str, set[Datum]]] = defaultdict(lambda: defaultdict(set))
        for record in (one for many in owners.values() for one in many):
            expected[record.name][record.rtype].add(Datum(record.value))
        after = view(zone)
        for name in NAMES:
            assert {rtype: set(zone.find(name, rtype)) for rtype in zone.find_types(name)} == expected.get(name, {})
            assert zone.has_below(name) == any(one.endswith("." + name) for one in expected)
        assert zone.names_count == len(expected)
        assert zone.records_count == sum(len(data) for sets in expected.values() for data in sets.values())
        assert len(list(zone.iterate("x"))) == zone.records_count
        changed = zone.pop_changed()
        assert {name for name in NAMES if before[name] != after[name]} <= changed
        before = after
    for owner in owners:
        zone.put(owner, ())
    assert (zone.names_count, zone.records_count) == (0, 0)
    assert not any(zone.has_below(name) for name in NAMES)


def test_zone_put_of_the_same_records_changes_nothing() -> None:
    zone = Zone()
    assert zone.put("o", [Record("a.x", "A", "1"), Record("a.x", "A", "1")])
    zone.pop_changed()
    assert not zone.put("o", [Record("a.x", "A", "1")])
    assert zone.pop_changed() == set()
