"""Checks that no file carries what only one machine knows, and that no check is silenced in passing.

python -m tools.checks.words        prints `file:line: reason` per finding; exit code 1 if there is one
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

from tools.checks.sources import ROOT, list_files

PYTHON_ONLY = (".py", ".pyi")
EXEMPT = ("LICENSE", "requirements.lock", "felix/datastore/rpc/", "tests/unit/checks/test_words.py")
NOT_TEXT = (".png", ".gif", ".ico", ".woff2", ".gz")


class Rule(NamedTuple):
    """Text that may not stand in a file whose name ends with one of `suffixes` (empty: any file)."""

    pattern: re.Pattern[str]
    reason: str
    suffixes: tuple[str, ...] = ()


RULES = (
    Rule(re.compile(r"(?<![\w./-])/(?:home|Users|root|work|workspace)/\w"), "a path of one particular machine"),
    Rule(re.compile(r"#\s*type:\s*ignore"), "a silenced type check; mend the type", PYTHON_ONLY),
    Rule(re.compile(r"#\s*noqa"), "a silenced style check; mend the line", PYTHON_ONLY),
    Rule(re.compile(r"\b(?:TO" r"DO|FIX" r"ME|X" r"XX)\b"), "unfinished work belongs in the tracker"),
    Rule(re.compile(r"^(?:<{7}|>{7}) "), "a merge conflict"),
)


def find_words(path: str, text: str) -> list[str]:
    """Returns `file:line: reason` for each line of `text` that breaks a rule, in line order; empty when none does."""
    return [
        f"{path}:{number}: {rule.reason}: {line.strip()[:100]}"
        for number, line in enumerate(text.splitlines(), start=1)
        for rule in RULES
        if (not rule.suffixes or path.endswith(rule.suffixes)) and rule.pattern.search(line)
    ]


def main() -> int:
    """Prints what is wrong in the tree; returns the exit code."""
    findings: list[str] = []
    for path in list_files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(EXEMPT) or name.endswith(NOT_TEXT):
            continue
        findings += find_words(name, path.read_text(encoding="utf-8"))
    print("\n".join(findings) or "no file says what it should not")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
