"""Settings that could not work are refused with their name."""

import pytest

from mesh.errors import FailedPrecondition
from mesh.settings import describe, load
from services.memory.settings import MemorySettings


def test_a_secret_is_masked_wherever_settings_are_shown() -> None:
    settings = load(MemorySettings, "memory", environ={"PLEXUS_MEMORY_QDRANT_API_KEY": "hush"})
    assert settings.qdrant_api_key == "hush"
    assert "hush" not in repr(settings)
    assert describe(settings)["qdrant_api_key"] == "***"


@pytest.mark.parametrize(
    ("field", "value"),
    [("EMBED_BATCH_SIZE", "257"), ("DIMENSIONS", "0"), ("SWEEP_INTERVAL_S", "0")],
)
def test_what_could_not_work_is_refused(field: str, value: str) -> None:
    with pytest.raises(FailedPrecondition, match=field.lower()):
        load(MemorySettings, "memory", environ={f"PLEXUS_MEMORY_{field}": value})
