"""What the checks of a plug-in found: one verdict per case, as text for people. Pure in all but its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "skip"]
_CASE_WIDTH = 67
_CELL_LIMIT = 70


@dataclass(frozen=True, slots=True)
class Verdict:
    """One case. version: of the specification, in which it was tried. seen: for a skipped case the reason."""

    verb: str
    version: str
    case: str
    expected: str
    seen: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Topic:
    """What a row of cases is about."""

    verb: str
    version: str

    def judge(self, case: str, expected: str, seen: object, *, is_right: bool) -> Verdict:
        """Returns the verdict on a case that was tried."""
        return Verdict(self.verb, self.version, case, expected, str(seen), "pass" if is_right else "fail")

    def skip(self, case: str, expected: str, reason: str) -> Verdict:
        """Returns the verdict on a case that could not be tried."""
        return Verdict(self.verb, self.version, case, expected, reason, "skip")


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found about one plug-in. supported: the versions that it lists, empty when it lists none."""

    plugin: str
    supported: Sequence[str]
    verdicts: Sequence[Verdict]

    @property
    def is_good(self) -> bool:
        """Whether something was tried and nothing failed."""
        return self.count("pass") > 0 and self.count("fail") == 0

    def count(self, outcome: Outcome) -> int:
        """Returns how many cases came out so."""
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def summary(self) -> str:
        """Returns one line with the figures."""
        return (
            f"{self.plugin}: {self.count('pass')} pass, {self.count('fail')} fail, {self.count('skip')} skip;"
            f" it speaks {', '.join(self.supported) or 'no version'}"
        )

    def document(self) -> dict[str, object]:
        """Returns the same for programs."""
        outcomes: tuple[Outcome, ...] = ("pass", "fail", "skip")
        return {
            "plugin": self.plugin,
            "supportedVersions": list(self.supported),
            "summary": {outcome: self.count(outcome) for outcome in outcomes},
            "cases": [asdict(verdict) for verdict in self.verdicts],
        }


def render_verdict(verdict: Verdict) -> str:
    """Returns a line about a case; below it what was expected and seen where it failed."""
    line = f"{verdict.outcome}  {verdict.verb:<7}  {verdict.version:<6}  {verdict.case:<{_CASE_WIDTH}}"
    if verdict.outcome == "fail":
        return f"{line.rstrip()}\n      expected: {verdict.expected}\n      seen:     {verdict.seen}"
    return f"{line}  {_cut(verdict.seen)}".rstrip()


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _CELL_LIMIT else flat[: _CELL_LIMIT - 1] + "…"
