"""Which files of the project the checks read: what git tracks or would track, wherever the checks are started."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def list_files(*patterns: str, root: Path = ROOT) -> list[Path]:
    """Returns existing files under `root`, tracked or new but not ignored, sorted; patterns are git's."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (root / name for name in sorted(set(listing.split("\0"))) if name)
    return [path for path in paths if path.is_file()]
