"""Settings of the export of curves and metrics to TensorBoard and MLflow."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class TrackingConfig(BaseModel):
    """Where curves and figures are kept for comparison with other runs; changes no result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tensorboard: Literal["auto", "off"] = Field(
        default="auto", description="auto: in workspace/tensorboard if the package tensorboard is installed"
    )
    mlflow: str | None = Field(
        default=None, min_length=1, description="folder (below the workspace if relative) or address of a server"
    )

    @field_validator("tensorboard", mode="before")
    @classmethod
    def _off_is_false_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value
