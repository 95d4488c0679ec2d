"""Artifacts of the stages: each class owns its file names and validates what is written and read."""
