"""The stages, in the order in which they can run."""

from pipeline.runner.stage import Stage
from pipeline.stages.baselines import STAGE as BASELINES
from pipeline.stages.biopsies import STAGE as BIOPSIES
from pipeline.stages.classify import STAGE as CLASSIFY
from pipeline.stages.cohort import STAGE as COHORT
from pipeline.stages.export import STAGE as EXPORT
from pipeline.stages.features import STAGE as FEATURES
from pipeline.stages.phantoms import STAGE as PHANTOMS
from pipeline.stages.predict import STAGE as PREDICT
from pipeline.stages.preprocess import STAGE as PREPROCESS
from pipeline.stages.pretrain import STAGE as PRETRAIN
from pipeline.stages.report import STAGE as REPORT
from pipeline.stages.split import STAGE as SPLIT

STAGES: tuple[Stage, ...] = (
    PHANTOMS,
    BIOPSIES,
    COHORT,
    SPLIT,
    PREPROCESS,
    FEATURES,
    PRETRAIN,
    CLASSIFY,
    BASELINES,
    REPORT,
    EXPORT,
    PREDICT,
)
