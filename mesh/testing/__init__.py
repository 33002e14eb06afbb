"""Doubles that ship with Plexus: clock, model upstream, mesh in one process."""
