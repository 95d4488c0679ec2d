"""Cohorts with known truth, made here: head phantoms and drawn biopsies."""
