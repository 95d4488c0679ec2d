"""The demo cohort of head phantoms."""

from demo.phantoms import PhantomsConfig
from pipeline.runner.stage import Stage

STAGE = Stage(
    "phantoms",
    declared=f"{__name__}:STAGE",
    function="pipeline.stages.phantoms:phantoms",
    config=PhantomsConfig,
    artifact="pipeline.store.demo_cohorts:PhantomCohort",
    version=1,
    enabled=lambda settings: settings.cohort.manifest == "phantoms",
)
