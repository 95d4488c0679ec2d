"""The stages, in the order in which they run."""

from pipeline.runner.stage import Stage
from pipeline.specs.baselines import STAGE as BASELINES
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.confounding import STAGE as CONFOUNDING
from pipeline.specs.contribute import STAGE as CONTRIBUTE
from pipeline.specs.export import STAGE as EXPORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.hypothesise import STAGE as HYPOTHESISE
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.judge import STAGE as JUDGE
from pipeline.specs.predict import STAGE as PREDICT
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.recycle import STAGE as RECYCLE
from pipeline.specs.report import STAGE as REPORT
from pipeline.specs.split import STAGE as SPLIT
from pipeline.specs.synthesise import STAGE as SYNTHESISE
from pipeline.specs.update import STAGE as UPDATE

STAGES: tuple[Stage, ...] = (
    COHORT,
    SPLIT,
    PREPROCESS,
    FEATURES,
    PRETRAIN,
    CLASSIFY,
    BASELINES,
    CONTRIBUTE,
    JOINT,
    IMPUTE,
    HYPOTHESISE,
    UPDATE,
    SYNTHESISE,
    JUDGE,
    CONFOUNDING,
    RECYCLE,
    REPORT,
    EXPORT,
    PREDICT,
)
