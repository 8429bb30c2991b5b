"""What all tests share: expected files that can be written anew, and a reason for what this machine cannot run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest

# How long one example takes says more about the machine's other work than about the code. A run can be repeated: it
# tells of the change that was made, and not of luck. Luck has a verb of its own, `make hunt`.
hypothesis.settings.register_profile("felix", deadline=None, derandomize=True)
hypothesis.settings.register_profile("hunt", deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile(os.environ.get("FELIX_HYPOTHESIS", "felix"))

GOLDEN = Path(__file__).parent / "golden" / "expected"

CheckGolden = Callable[[str, str], None]
"""Takes the name of an expected file and the text that should be in it."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-golden", action="store_true", help="write expected files instead of comparing them")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("fv"):
            item.add_marker(pytest.mark.skip(reason="needs root, for network namespaces"))


@pytest.fixture
def check_golden(request: pytest.FixtureRequest) -> CheckGolden:
    """Compares a text with `tests/golden/expected/<name>`; with --rewrite-golden it writes the file instead."""
    is_rewriting = bool(request.config.getoption("--rewrite-golden"))

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if is_rewriting:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        assert path.is_file(), f"{path} is missing; see what `make golden` writes"
        assert text == path.read_text(encoding="utf-8")

    return check
