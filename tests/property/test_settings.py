"""Whatever a source says: there are settings afterwards, and a reason for each value that was refused."""

from hypothesis import given
from hypothesis import strategies as st

from felix.config.resolve import Kind, Source, find_changes, resolve
from felix.config.table import SETTINGS, Settings

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["1m30s", "none", "true", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from([row.about.name for row in SETTINGS]) | st.sampled_from(
    [row.yaml_name for row in SETTINGS if row.yaml_name]
)
sources = st.builds(
    Source, st.sampled_from(Kind), st.just("somewhere"), st.dictionaries(names | texts, values, max_size=6)
)


@given(st.lists(sources, max_size=3))
def test_resolve_any_input_gives_settings_and_accounts_for_every_name(given_sources: list[Source]) -> None:
    resolved = resolve(given_sources)
    assert isinstance(resolved.settings, Settings)
    assert set(resolved.origin_by_attribute) == {row.attribute for row in SETTINGS}
    changed = find_changes(Settings(), resolved.settings)
    from_sources = sum(len(source.value_by_name) for source in given_sources)
    # One more: an interval and a lifetime that contradict each other change the lifetime.
    assert len(changed.live) + len(changed.restart) <= from_sources + 1
    for row in SETTINGS:
        if getattr(resolved.settings, row.attribute) != row.default:
            assert resolved.origin_by_attribute[row.attribute].source != "default"


@given(st.lists(sources, max_size=2), st.lists(sources, max_size=2))
def test_resolve_bad_values_leave_what_was_and_good_ones_do_not(before: list[Source], after: list[Source]) -> None:
    old = resolve(before)
    new = resolve(after, old)
    refused = {problem.field for problem in new.problems}
    alone = resolve(after)
    for row in SETTINGS:
        if row.about.name not in refused and row.about.name not in {"ReportingTTLSecs"}:
            assert getattr(new.settings, row.attribute) == getattr(alone.settings, row.attribute)
