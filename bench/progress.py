"""Shows how far a run is, on standard error."""

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Shown:
    """One line per step, with what it does right now. Use it as a context manager."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<9}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(stderr=True),
        )
        self._step: TaskID | None = None

    def __enter__(self) -> "Shown":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        raised: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def begin(self, step: str, total: float) -> None:
        """Open a step that `advance` will be told `total` of."""
        self.end()
        self._step = self._progress.add_task(step, total=total, detail="")

    def advance(self, detail: str, amount: float = 1.0) -> None:
        """Report some of the step."""
        if self._step is not None:
            self._progress.update(self._step, advance=amount, detail=detail)

    def end(self) -> None:
        """Close the step, however much of it was reported."""
        if self._step is not None:
            task = self._progress.tasks[-1]
            self._progress.update(self._step, completed=task.total, detail="")
            self._step = None
