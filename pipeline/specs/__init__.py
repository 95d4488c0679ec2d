"""Declarations of the stages: settings, inputs, artifact, version. No heavy package is imported here."""
