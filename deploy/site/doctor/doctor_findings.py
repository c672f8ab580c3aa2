"""What looks find, and how a fault is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from moretta.shared.core.errors import ExitCode, MorettaError

Verdict = Literal["ok", "warning", "fault"]
T = TypeVar("T")
_COORDINATOR = "ask the coordinator"
_GENERAL_FIX = {
    ExitCode.UNREACHABLE: "ask the coordinator whether the server runs",
    ExitCode.ENROLLMENT: _COORDINATOR,
    ExitCode.REFUSED: _COORDINATOR,
    ExitCode.HOME: "correct the file",
    ExitCode.CORPUS: "correct the corpus, or its path in site.toml",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look found."""

    check: str
    verdict: Verdict
    found: str
    fix: str = ""
    """How it is put right; never empty for a warning or a fault."""
    code: ExitCode = ExitCode.OK
    """With which a fault ends the command."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "code": int(self.code)}


@dataclass
class Findings:
    """Takes notes, in order."""

    notes: list[Finding] = field(default_factory=list)

    def ok(self, check: str, found: str) -> None:
        """All is well."""
        self.notes.append(Finding(check, "ok", found))

    def warning(self, check: str, found: str, *, fix: str) -> None:
        """It works, and should be looked at."""
        self.notes.append(Finding(check, "warning", found, fix))

    def fault(self, check: str, found: str, *, fix: str, code: ExitCode) -> None:
        """It does not work."""
        self.notes.append(Finding(check, "fault", found, fix, code))

    def tried(self, check: str, look: Callable[[], T], describe: Callable[[T], str]) -> T | None:
        """Look, and note what was seen, or the error as a fault.

        Returns:
            What was looked at; None where it failed.
        """
        try:
            seen = look()
        except MorettaError as error:
            expected = f"; expected {error.expected}" if error.expected else ""
            fix = error.fix or _GENERAL_FIX.get(error.exit_code, "see docs/site.md")
            self.fault(check, error.found + expected, fix=fix, code=error.exit_code)
            return None
        self.ok(check, describe(seen))
        return seen


def worst(findings: Sequence[Finding]) -> ExitCode:
    """The code of the first fault, which explains the later ones; OK if there is none."""
    return next((f.code for f in findings if f.verdict == "fault"), ExitCode.OK)
