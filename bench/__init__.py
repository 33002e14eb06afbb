"""The benchmark: how fast the mesh is, beside the fastest relay in Python and beside peers.

`plexus bench` runs it. The load generator, the model upstream and each system under test are
processes of their own on loopback. What counts are ratios within one round, not absolutes.
"""
