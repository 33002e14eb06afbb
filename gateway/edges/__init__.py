"""How the outside reaches the pipeline: gRPC and HTTP dialects, each a translation."""
