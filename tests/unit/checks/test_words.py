"""The check of words finds machine paths and silenced checks, and leaves ordinary text alone."""

import pytest

from tools.checks.words import find_words


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("README.md", "see /home/someone/felix"),
        ("Makefile", "cd /root/src"),
        ("felix/a.py", "x = y()  # type: ignore[misc]"),
        ("felix/a.py", "import z  # noqa: F401"),
        ("docs/a.md", "TODO: write this"),
        ("felix/a.py", "<<<<<<< ours"),
    ],
)
def test_line_that_breaks_a_rule_is_found_with_its_number(path: str, line: str) -> None:
    (finding,) = find_words(path, f"first\n{line}\n")
    assert finding.startswith(f"{path}:2: ")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("README.md", "files live in /etc/calico and /var/lib/felix"),
        ("docs/a.md", "never write # noqa in code"),
        ("felix/a.py", "reads b'/calico/resources/v3/projectcalico.org/workloadendpoints/'"),
        ("felix/a.py", "matches(r'a/root/b')"),
    ],
)
def test_ordinary_line_is_good(path: str, line: str) -> None:
    assert find_words(path, line) == []
