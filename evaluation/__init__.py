"""Predictions in, numbers and one HTML page out. Opens no file and imports no other part of the project."""
