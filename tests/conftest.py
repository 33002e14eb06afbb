"""Every test ends: a unit test in ten seconds, any other in the minute pyproject.toml sets."""

from pathlib import Path

import pytest
from hypothesis import settings

UNIT = Path(__file__).parent / "unit"
UNIT_TIMEOUT_S = 10

# The same examples on every machine, and no verdict that depends on how busy the machine is.
settings.register_profile("plexus", deadline=None, derandomize=True)
settings.load_profile("plexus")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(UNIT) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(UNIT_TIMEOUT_S))
