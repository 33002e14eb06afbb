"""The providers' dialects as pure functions: requests out, streams in. No I/O here."""
