"""What would change in BIRD's configuration: desired text minus the file's. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from felix.dataplane.bird.render import find_digest, render_bird
from felix.dataplane.bird.types import BirdContext

_PASSWORD = re.compile(r'^(.*\bpassword ").*(";)$')


@dataclass(frozen=True, slots=True)
class BirdPlan:
    """The file that should be and the one that is. Both texts may hold passwords; `list_changes` shows none."""

    text: str
    believed: str

    @property
    def is_empty(self) -> bool:
        """Whether nothing has to be written."""
        return self.text == self.believed

    @property
    def digest(self) -> str:
        """The digest by which a running BIRD can be asked whether it runs this text."""
        return find_digest(self.text)

    def list_changes(self) -> list[str]:
        """Returns the lines of a unified diff, none when there is nothing to do; for anybody to see."""
        texts = (_hide(self.believed), _hide(self.text))
        return list(difflib.unified_diff(*texts, "running", "wanted", n=1, lineterm=""))


def plan_bird(context: BirdContext, believed: str) -> BirdPlan:
    """Returns what has to be done so that the file, which now holds `believed`, says what the context says."""
    return BirdPlan(render_bird(context), believed)


def _hide(text: str) -> list[str]:
    return [_PASSWORD.sub(r"\1…\2", line) for line in text.splitlines()]
