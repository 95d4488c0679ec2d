"""The stage that assigns subjects to train, validation and test."""

from cohort.splits import SplitConfig
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT

STAGE = Stage(
    "split",
    function="pipeline.stages.split:split",
    config=SplitConfig,
    artifact="pipeline.store.tables:SplitTables",
    version=2,
    reads={"cohort": COHORT},
)
