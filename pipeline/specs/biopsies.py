"""The demo cohort of drawn biopsies."""

from demo.biopsies import BiopsiesConfig
from pipeline.runner.stage import Stage

STAGE = Stage(
    "biopsies",
    declared=f"{__name__}:STAGE",
    function="pipeline.stages.biopsies:biopsies",
    config=BiopsiesConfig,
    artifact="pipeline.store.demo_cohorts:PictureCohort",
    version=1,
    enabled=lambda settings: settings.cohort.manifest == "biopsies",
)
