"""What a check of `plexus doctor` finds."""

from dataclasses import dataclass
from typing import Final, Literal

Status = Literal["ok", "failed", "skipped"]

OK: Final = "ok"
FAILED: Final = "failed"
SKIPPED: Final = "skipped"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one check. `remedy` says what to do; only a failure needs one."""

    name: str
    status: Status
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return plain data."""
        return {
            "name": self.name,
            "status": self.status,
            "detail": self.detail,
            "remedy": self.remedy,
        }


def ok(name: str, detail: str) -> Finding:
    """Return a passed check."""
    return Finding(name=name, status=OK, detail=detail)


def failed(name: str, detail: str, remedy: str) -> Finding:
    """Return a failed check."""
    return Finding(name=name, status=FAILED, detail=detail, remedy=remedy)


def skipped(name: str, detail: str) -> Finding:
    """Return a check that does not apply here."""
    return Finding(name=name, status=SKIPPED, detail=detail)
