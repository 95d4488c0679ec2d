"""What `run_pipeline.py` does: options, plan, run, summary, and the housekeeping of a workspace."""
