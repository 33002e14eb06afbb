"""The data folder: made on first use, and owned by one mesh at a time."""

import fcntl
import os
from pathlib import Path

from mesh.errors import FailedPrecondition, Reason

_LOCK_NAME = "lock"


class DataFolder:
    """An owned data folder; `release` it, or end the process, to let another mesh own it."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def own(cls, path: Path) -> "DataFolder":
        """Make the folder if need be and own it.

        Raises FailedPrecondition when another process owns it or it cannot be written. The lock is
        the kernel's: it goes when its process does, however that ends.
        """
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FailedPrecondition(
                f"cannot write to the data folder {path} ({error.strerror}): set PLEXUS_DATA_DIR "
                "to a folder you may write to",
                reason=Reason.INVALID_SETTINGS,
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise FailedPrecondition(
                f"another mesh is running on the data folder {path}: stop it, or set "
                "PLEXUS_DATA_DIR to another folder",
                reason=Reason.INVALID_SETTINGS,
            ) from error
        return cls(path, descriptor)

    def release(self) -> None:
        """Give the folder up."""
        os.close(self._descriptor)


def is_owned(path: Path) -> bool:
    """Return whether a running process owns the folder."""
    try:
        DataFolder.own(path).release()
    except FailedPrecondition:
        return True
    return False
