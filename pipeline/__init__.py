"""Stages, artifacts, provenance and scheduling: the only place that knows files."""
