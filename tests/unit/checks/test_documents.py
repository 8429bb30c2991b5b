"""Generated documents: a missing or changed one is found, the written ones are good."""

from pathlib import Path

from felix.config.exits import MEANING_BY_CODE, ExitCode, exit_code
from felix.errors import DataError, EnvironmentFault, FelixError, KernelRefused, ResyncRequired
from tools.documents import RENDER_BY_PATH, find_outdated


def test_find_outdated_missing_or_changed_document_is_found(tmp_path: Path) -> None:
    assert find_outdated(tmp_path).keys() == RENDER_BY_PATH.keys()
    (tmp_path / "docs").mkdir()
    for name, text in find_outdated(tmp_path).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_outdated(tmp_path) == {}
    (tmp_path / "docs/config.md").write_text("something else", encoding="utf-8")
    assert list(find_outdated(tmp_path)) == ["docs/config.md"]


def test_exit_codes_each_has_a_meaning_and_each_blame_a_code() -> None:
    assert set(MEANING_BY_CODE) == set(ExitCode)
    codes = [exit_code(kind("")) for kind in (DataError, EnvironmentFault, ResyncRequired, KernelRefused, FelixError)]
    assert codes == [65, 69, 75, 69, 70]
