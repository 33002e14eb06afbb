"""The fabric that every component stands on.

Imports go one way: `mesh` imports only the generated contract (`plexus.*`);
`services.*` import `mesh` and never each other; `gateway` imports `mesh` and
reaches services only through their stubs; `cli` may import all.
"""

import os

# Children are started by exec, never by a bare fork, so gRPC's fork handlers would only complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
