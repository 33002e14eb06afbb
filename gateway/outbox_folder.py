"""The folder of an outbox: one for each gateway, though several keep their data in one place.

The first gateway of a data folder takes `outbox`, the next `outbox-2`, and so on. What a gateway
that is gone left waiting is taken over by the next one that starts.
"""

import fcntl
import os
from pathlib import Path

from mesh.errors import FailedPrecondition, Reason
from mesh.logs import Log

MAX_GATEWAYS = 64
"""Gateways on one data folder."""

log = Log("outbox")


class OutboxFolder:
    """An owned folder: nobody else sends or removes what is in it. `release` it, or end."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def own(cls, data_dir: Path) -> "OutboxFolder":
        """Own the first free folder, with the files of those whose owners are gone.

        Raises FailedPrecondition when nothing can be written there. Blocks for a moment.
        """
        candidates = [data_dir / _name(number) for number in range(1, MAX_GATEWAYS + 1)]
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            for path in candidates:
                descriptor = _lock(path)
                if descriptor is not None:
                    path.mkdir(parents=True, exist_ok=True)
                    for other in candidates:
                        if other != path and other.exists():
                            _take_over(other, path)
                    return cls(path, descriptor)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot write to {data_dir}: {error.strerror}; set PLEXUS_DATA_DIR to a folder "
                "you may write to",
                reason=Reason.INVALID_SETTINGS,
            ) from error
        raise FailedPrecondition(
            f"{MAX_GATEWAYS} gateways keep their data in {data_dir}; set PLEXUS_DATA_DIR to "
            "another folder",
            reason=Reason.INVALID_SETTINGS,
        )

    def release(self) -> None:
        """Give the folder up; its files stay."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _name(number: int) -> str:
    return "outbox" if number == 1 else f"outbox-{number}"


def _lock(path: Path) -> int | None:
    """Return the lock of a folder, which the kernel frees when its owner ends; None if held."""
    descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _take_over(abandoned: Path, mine: Path) -> None:
    """Move the files of a folder whose owner is gone; names are unique to begin with."""
    descriptor = _lock(abandoned)
    if descriptor is None:
        return
    try:
        files = [path for path in abandoned.iterdir() if path.is_file()]
        for file in files:
            file.rename(mine / file.name)
        if files:
            log.warning("takeover", folder=abandoned.name, writes=len(files))
    finally:
        os.close(descriptor)
