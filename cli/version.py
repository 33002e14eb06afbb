"""Which Plexus this is, and how it is called."""

import os
import shutil
import sys
from importlib import metadata


def plexus_version() -> str:
    """Return the installed version, or "unknown" when Plexus runs without being installed."""
    try:
        return metadata.version("plexus-mesh")
    except metadata.PackageNotFoundError:
        return "unknown"


def program() -> str:
    """Return what to type to run this command: its name if PATH finds it, else its path."""
    if shutil.which("plexus") or not sys.argv[0].endswith("plexus"):
        return "plexus"
    return os.path.relpath(sys.argv[0])
