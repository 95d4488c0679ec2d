"""Command line of `run_pipeline.py`: options, plan, run, summary, and files of the workspace."""
