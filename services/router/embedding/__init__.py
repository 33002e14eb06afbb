"""Embeddings: the built-in model, an endpoint's, and the queue that batches for both."""
