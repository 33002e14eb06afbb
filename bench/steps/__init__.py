"""The steps of a run; each returns rows of `bench.result`."""
