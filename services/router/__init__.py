"""The router: chooses a model deployment, streams its answer, falls back in time, embeds."""
