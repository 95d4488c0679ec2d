"""One page with the results of a run."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import ALL, Stage
from pipeline.specs.baselines import STAGE as BASELINES
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.confounding import STAGE as CONFOUNDING
from pipeline.specs.contribute import STAGE as CONTRIBUTE
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.hypothesise import STAGE as HYPOTHESISE
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.judge import STAGE as JUDGE
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.recycle import STAGE as RECYCLE
from pipeline.specs.split import STAGE as SPLIT
from pipeline.specs.synthesise import STAGE as SYNTHESISE
from pipeline.specs.update import STAGE as UPDATE


class ReportConfig(BaseModel):
    """Contents of the report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="HyperMM run", description="headline of the page")
    qc_pictures: int = Field(default=24, ge=0, description="QC pictures shown, of the scans to look at first")
    patients: int = Field(
        default=2,
        ge=0,
        description="test patients shown with their scans of each kind: most wrong, most unsure, most certain",
    )
    viewer: bool = Field(
        default=True,
        description="a page with all slices of each volume of the patients shown, on the pages of report and predict; "
        "some 100 kB a scan",
    )
    convention: Literal["radiological", "neurological"] = Field(
        default="radiological",
        description="of QC pictures and imputed scans on the pages of report and predict: radiological has the "
        "patient's right on the left of the picture, neurological the left; files in preprocess/ are radiological",
    )
    csv_safe: bool = Field(
        default=False,
        description="in failures.csv, report/qc.csv and predict/predictions.csv, an apostrophe before text that "
        "spreadsheets take for a formula; for what is written from then on; tables that the pipeline reads again are "
        "left as they are",
        json_schema_extra={"changes_results": False},
    )


STAGE = Stage(
    "report",
    function="pipeline.stages.report:report",
    config=ReportConfig,
    artifact="pipeline.store.report_page:ReportPage",
    version=8,
    reads={
        "cohort": COHORT,
        "split": SPLIT,
        "preprocess": PREPROCESS,
        "features": FEATURES,
        "pretrain": PRETRAIN,
        "classify": CLASSIFY,
        "confounding": CONFOUNDING,
    },
    reads_if_present={
        "baselines": BASELINES,
        "contribute": CONTRIBUTE,
        "joint": JOINT,
        "impute": IMPUTE,
        "hypothesise": HYPOTHESISE,
        "update": UPDATE,
        "synthesise": SYNTHESISE,
        "judge": JUDGE,
        "recycle": RECYCLE,
    },
    settings={"settings": ALL},
)
