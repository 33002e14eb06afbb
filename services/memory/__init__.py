"""Memory: what agents should remember, on Qdrant.

`store.py` is the port, `edge_store.py` and `server_store.py` are its two adapters; `service.py`
is the gRPC edge. What the engine process imports stands on the standard library and
`qdrant_edge` alone, so that it starts in tens of milliseconds.
"""
