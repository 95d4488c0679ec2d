"""The stage that reads the manifest of patients and scans."""

from cohort.manifest import CohortConfig
from pipeline.runner.stage import Stage

STAGE = Stage(
    "cohort",
    function="pipeline.stages.cohort:cohort",
    config=CohortConfig,
    artifact="pipeline.store.tables:CohortTables",
    version=3,
    settings={"demo": "demo"},
    external_inputs="pipeline.stages.cohort:manifest_state",
    check_requirements="pipeline.stages.cohort:check_manifest_given",
)
