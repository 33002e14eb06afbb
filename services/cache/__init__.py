"""The cache: exact answers of canonical requests, in two levels, with single-flight."""
