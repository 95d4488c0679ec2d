"""Shared by all stages: device, progress, notes, and provenance of results."""
