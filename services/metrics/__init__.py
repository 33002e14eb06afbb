"""Metrics: the cost ledger, and percentiles that add up over replicas."""
