"""Settings of the diffusion engine, for the stages joint and synthesise."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Engine = Literal["linear", "diffusion"]
ENGINE = (
    "of draws; linear: one Gaussian of all scores; diffusion: a network learns links that are no straight lines, "
    "for thousands of patients and a GPU"
)


class DiffusionConfig(BaseModel):
    """The engine diffusion: size, training and drawing of its network (docs/synthesis.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=128, ge=8, le=8192, description="of the network's layers, for each block")
    layers: int = Field(default=3, ge=1, le=64, description="residual ones")
    steps: int = Field(default=20_000, ge=1, description="of training, each of a batch")
    batch: int = Field(default=256, ge=1, description="patients a step")
    learning_rate: float = Field(
        default=1e-3, gt=0, description="of Adam at its highest; it rises at first and falls to 0 by a cosine"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="share of a layer's inner numbers that a training step hides"
    )
    weight_decay: float = Field(
        default=0.0, ge=0, description="of AdamW: this times the learning rate is taken from every weight in each step"
    )
    average: float = Field(
        default=0.999, ge=0, lt=1, description="share of the averaged weights (EMA) that a step leaves"
    )
    draw_steps: int = Field(default=50, ge=1, le=1000, description="from noise to scores")
    keep_every: int = Field(
        default=1000,
        ge=1,
        description="steps after which the state is kept; a run that was stopped goes on from there",
        json_schema_extra={"changes_results": False},
    )
