"""Stages as declarations, the plan of a run, running it, and the loop over scans."""
