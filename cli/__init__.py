"""The `plexus` command."""
