"""What to type to run this very Felix on a lab."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

DEFAULT_NAME = "demo"


def find_own_command() -> str:
    """Returns what to type to run this Felix: `felix` if the shell finds this one, else its path."""
    own = Path(sys.executable).with_name("felix")
    found = shutil.which("felix")
    if not own.exists() or (found and Path(found).resolve() == own.resolve()):
        return "felix"
    return str(own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own)


def name_option(name: str) -> str:
    """Returns the option that chooses a lab, with a blank before; empty for the one that is chosen without."""
    return "" if name == DEFAULT_NAME else f" --name {name}"
