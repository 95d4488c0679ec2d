"""Checks whether a machine is ready for a run: packages, device, disk, weights, data."""
