"""What both training stages have in common: their settings, and the call of the fit loop."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runtime import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.fit import History, Loss


class FitConfig(BaseModel):
    """Settings of the fit loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=100, ge=1, description="at most")
    patience: int = Field(default=10, ge=1, description="epochs without a lower validation loss before stopping")
    batch_size: int = Field(default=16, ge=1, description="scans or observations a step")
    learning_rate: float = Field(default=1e-4, gt=0, lt=1, description="of Adam")
    weight_decay: float = Field(default=5e-4, ge=0, description="of Adam, as in the authors' code")
    seed: int = Field(default=0, ge=0, description="of weights, order and draws; each repeat adds its number")


class TrainingConfig(FitConfig):
    """Settings of both training stages."""

    balance_classes: bool = Field(default=False, description="weight classes by the inverse of their frequency")
    memory_mb: int = Field(
        default=512,
        gt=0,
        description="of blocks or features held; what is more is read from a temporary file in the workspace",
        json_schema_extra={"changes_results": False},
    )


def train_network(
    network: "nn.Module",
    loss: "Loss",
    parts: "tuple[Tensor, Tensor]",
    *,
    config: TrainingConfig,
    repeat: int,
    on_epoch: Callable[[object], None],
) -> "History":
    """Fit a network on the first of `parts`, stopping by the second.

    Raises:
        InputError: the loss diverged.
    """
    from models.fit import fit

    try:
        return fit(
            network,
            loss,
            train=parts[0],
            validation=parts[1],
            epochs=config.epochs,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            weight_decay=config.weight_decay,
            patience=config.patience,
            seed=config.seed + repeat,
            on_epoch=on_epoch,
        )
    except FloatingPointError as error:
        raise InputError(f"repeat {repeat}: {error}") from error
