"""What a run found: rows of figures, as they are kept in JSON."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.plan import Plan
from bench.schedule import Kind
from bench.statistics import Distribution, Spread


@dataclass(frozen=True, kw_only=True)
class ClosedRow:
    """One target at one load of the closed loop."""

    target: str
    kind: Kind
    concurrency: int
    rate: Spread
    """Whole answers per second, over the rounds."""
    ratio: Spread | None
    """The rate over the relay's in the same round; None without the relay."""
    total_ms: Distribution
    first_ms: Distribution
    """To the first text; empty for unary calls."""
    cpu_ms: float
    """Processor time of the target's processes per call; the upstream and the caller are others."""
    failures: int


@dataclass(frozen=True, kw_only=True)
class PacedRow:
    """Answers at a model's pace: what a target adds when it is not busy."""

    target: str
    load: str
    first_ms: Distribution
    added_first_p50_ms: float | None
    """Over the upstream alone; None when that was not measured."""
    added_first_p99_ms: float | None
    gap_ms: Distribution
    """Between deliveries of text."""
    total_ms: Distribution
    rate_per_s: float
    failures: int


@dataclass(frozen=True, kw_only=True)
class OpenRow:
    """Arrivals that do not wait for answers; times count from when a call was due."""

    target: str
    arrivals_per_s: float
    first_ms: Distribution
    total_ms: Distribution
    failures: int


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One kind of call of MemoryService at one size of a tenant's memory."""

    points: int
    operation: str
    concurrency: int
    rate_per_s: float
    total_ms: Distribution
    failures: int


@dataclass(frozen=True, kw_only=True)
class FillRow:
    """How fast a size was reached: acknowledged writes, then embeddings in the background."""

    points: int
    written_per_s: float
    embedding_s: float
    pending: int


@dataclass(frozen=True, kw_only=True)
class StartRow:
    """How long a system takes from the start of its process to being ready."""

    system: str
    cold_start_s: Spread


@dataclass(frozen=True, kw_only=True)
class FootprintRow:
    """The resident memory of one process."""

    system: str
    process: str
    idle_mib: float
    loaded_mib: float
    """After all load of this run."""


@dataclass(frozen=True, kw_only=True)
class StalledFinding:
    """What readers that do not read cost the mesh."""

    readers: int
    answer_bytes: int
    bytes_per_reader: float
    whole_answers: int
    """How many were read whole afterwards."""


@dataclass(frozen=True, kw_only=True)
class CancelsFinding:
    """What streams that are cancelled after their first piece leave behind."""

    count: int
    cancels_per_s: float
    first_mib: float
    last_mib: float
    bytes_per_cancel: float
    """The slope over the second half, when pools have their size."""


@dataclass(kw_only=True)
class Result:
    """A whole run."""

    machine: Mapping[str, object]
    plan: Plan
    is_whole: bool
    """Whether it may be recorded: the default plan, with every step."""
    duration_s: float = 0.0
    labels: dict[str, str] = field(default_factory=dict[str, str])
    closed: list[ClosedRow] = field(default_factory=list[ClosedRow])
    paced: list[PacedRow] = field(default_factory=list[PacedRow])
    open: list[OpenRow] = field(default_factory=list[OpenRow])
    memory: list[MemoryRow] = field(default_factory=list[MemoryRow])
    fill: list[FillRow] = field(default_factory=list[FillRow])
    cold: list[StartRow] = field(default_factory=list[StartRow])
    footprint: list[FootprintRow] = field(default_factory=list[FootprintRow])
    stalled: StalledFinding | None = None
    cancels: CancelsFinding | None = None
    notes: list[str] = field(default_factory=list[str])
    """What was left out, and why."""
