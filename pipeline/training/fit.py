"""Settings of the fit loop, shared by all training stages."""

from pydantic import BaseModel, ConfigDict, Field

from models.settings import Training, seed_of_repeat


class FitConfig(BaseModel):
    """Settings of the fit loop."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=Training.epochs, ge=1, description="at most")
    patience: int = Field(
        default=Training.patience, ge=1, description="epochs without a lower validation loss before stopping"
    )
    batch_size: int = Field(default=Training.batch_size, ge=1, description="scans or observations a step")
    learning_rate: float = Field(default=Training.learning_rate, gt=0, lt=1, description="of Adam")
    weight_decay: float = Field(default=Training.weight_decay, ge=0, description="of Adam, as in the authors' code")
    seed: int = Field(default=0, ge=0, description="of weights, order and sampling; each repeat adds its number")

    def training(self, repeat: int) -> Training:
        """Return the settings of the fit loop in a repeat."""
        return Training(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=self.patience,
            seed=seed_of_repeat(self.seed, repeat),
        )


class TrainingConfig(FitConfig):
    """Settings of both training stages."""

    balance_classes: bool = Field(default=False, description="weight classes by the inverse of their frequency")
    memory_mb: int = Field(
        default=512,
        gt=0,
        description="of feature maps or features held; what is more is read from a temporary file in the workspace",
        json_schema_extra={"changes_results": False},
    )
