"""The `plexus` command."""

import os

# Read by gRPC when it is first imported, hence here, before any other module of ours.
# Children are started by exec, never by a bare fork, so its fork handlers would only complain.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
# Its own lines on standard error repeat what our errors say, in a form that helps nobody.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
