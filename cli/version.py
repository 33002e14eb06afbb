"""The version of this Plexus."""

from importlib import metadata


def plexus_version() -> str:
    """Return the installed version, or "unknown" when Plexus runs without being installed."""
    try:
        return metadata.version("plexus-mesh")
    except metadata.PackageNotFoundError:
        return "unknown"
