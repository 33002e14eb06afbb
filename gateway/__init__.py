"""The gateway: one pipeline over memory, cache, router and metrics, and its edges."""
