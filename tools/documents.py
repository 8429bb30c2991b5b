"""Writes the generated documents, or checks that they say what the code says.

python -m tools.documents            writes those that differ
python -m tools.documents --check    writes nothing; exit code 1 and a list when one differs
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from felix.config.document import render_exit_codes, render_settings
from felix.obs.metrics import render_metrics
from tools.checks.sources import ROOT
from tools.keys_document import render_keys

RENDER_BY_PATH: Mapping[str, Callable[[], str]] = {
    "docs/config.md": render_settings,
    "docs/exit-codes.md": render_exit_codes,
    "docs/keys.md": render_keys,
    "docs/metrics.md": render_metrics,
}


def find_outdated(root: Path = ROOT) -> dict[str, str]:
    """Returns the right text of each document under `root` that differs or is missing, by its path."""
    outdated = {}
    for name, render in RENDER_BY_PATH.items():
        path = root / name
        text = render()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            outdated[name] = text
    return outdated


def main(arguments: list[str]) -> int:
    """Does what the module's text says; returns the exit code."""
    outdated = find_outdated()
    for name, text in outdated.items():
        if "--check" in arguments:
            print(f"{name} is out of date; run: make docs")
        else:
            (ROOT / name).write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 1 if outdated and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
