"""Synthetic patients, drawn from a joint model of the training patients of one repeat."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.diffusion import ENGINE, DiffusionConfig, Engine
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.marks import MarkConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT


class KLConfig(BaseModel):
    """The decoder kl: sizes and training of its two networks (docs/synthetic.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(32, 64, 64), min_length=1, max_length=5, description="of the autoencoder's levels; each but the first "
        "halves the image"
    )  # fmt: skip
    latent: int = Field(default=4, ge=1, le=64, description="channels of a latent image")
    flow: int = Field(default=64, ge=2, le=2048, multiple_of=2, description="channels of the flow's network")
    autoencoder_steps: int = Field(default=2000, ge=1, description="of the autoencoder's training, each of a batch")
    flow_steps: int = Field(default=4000, ge=1, description="of the flow's training")
    batch: int = Field(default=8, ge=1, description="images a step")
    learning_rate: float = Field(default=1e-4, gt=0, description="of Adam, for both networks")
    kl_weight: float = Field(default=1e-6, ge=0, description="of the autoencoder's divergence")
    draw_steps: int = Field(default=30, ge=1, le=1000, description="from noise to an image")
    keep_every: int = Field(
        default=500,
        ge=1,
        description="steps after which the state is kept; a run that was stopped goes on from there",
        json_schema_extra={"changes_results": False},
    )


class SynthesiseConfig(MarkConfig):
    """Synthetic patients: how many, from whom, and what of them is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int = Field(default=100, ge=1, le=100_000, description="to draw")
    repeat: int = Field(default=1, ge=1, description="whose training patients are learnt from; no other is looked at")
    engine: Engine = Field(default="linear", description=ENGINE)
    diffusion: DiffusionConfig = DiffusionConfig()
    decoder: Literal["pca", "kl", "none"] = Field(
        default="pca",
        description="of volumes and pictures; pca: principal components, drawn together with the feature maps; kl: an "
        "autoencoder and a rectified flow, told scores and class, for thousands of scans and a GPU; none: no images",
    )
    kl: KLConfig = KLConfig()
    covariates: bool = Field(default=False, description="also draw the covariates, such as age and sex")
    spacing_mm: float = Field(default=4.0, ge=2, le=10, description="voxel size of synthetic volumes")
    pixels: int = Field(default=64, ge=16, le=256, description="side of synthetic pictures")
    components: int = Field(default=32, ge=1, description="scores of a modality at most; never more than scans / 3")
    seed: int = Field(default=0, ge=0, description="another seed draws other patients")


STAGE = Stage(
    "synthesise",
    function="pipeline.stages.synthesise:synthesise",
    config=SynthesiseConfig,
    artifact="pipeline.store.synthetic:SyntheticCohort",
    version=5,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
    settings={"label": "cohort.label"},
    external_inputs="pipeline.store.marking:mark_of",
)
