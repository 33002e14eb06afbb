"""What of an event goes to Prometheus: models and kinds of work, never a tenant."""

from mesh import metrics
from plexus.metrics.v1 import metrics_service_pb2 as pb


class Exposition:
    """Feeds this process's registry; names beyond the cap become `other`."""

    def __init__(self, *, max_models: int) -> None:
        self._provider = metrics.LabelCap(max_models)
        self._model = metrics.LabelCap(max_models)
        self._operation = metrics.LabelCap(8)

    def count(self, entry: pb.LedgerEntry) -> None:
        """Count an entry that was booked now, not one that had been booked before."""
        event = entry.event
        labels = (
            self._operation(event.operation),
            self._provider(event.provider),
            self._model(event.model),
        )
        metrics.SAVED.labels(*labels[1:]).inc(entry.saved.nano_usd / 1e9)
        if event.cached:
            return
        metrics.COST.labels(*labels[1:]).inc(entry.cost.nano_usd / 1e9)
        metrics.TOKEN_USAGE.labels(*labels, "input").observe(event.usage.input_tokens)
        metrics.TOKEN_USAGE.labels(*labels, "output").observe(event.usage.output_tokens)
        metrics.OPERATION_DURATION.labels(*labels).observe(event.duration_ms / 1000)
        if event.time_to_first_token_ms > 0:
            seconds = event.time_to_first_token_ms / 1000
            metrics.TIME_TO_FIRST_CHUNK.labels(*labels).observe(seconds)
