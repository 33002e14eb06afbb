"""The fabric that every component stands on.

Imports go one way: `mesh` imports only the generated contract (`plexus.*`);
`services.*` import `mesh` and never each other; `gateway` imports `mesh` and
reaches services only through their stubs; `cli` may import all.
"""
