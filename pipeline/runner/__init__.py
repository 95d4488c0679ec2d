"""Declarations of stages, the plan of a run, its execution, and the loop over scans."""
