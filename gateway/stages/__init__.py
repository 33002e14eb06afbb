"""The stages of the pipeline; `gateway.pipeline` puts them in order."""
