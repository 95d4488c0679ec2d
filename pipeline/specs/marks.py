"""Settings of the watermark, for stages that write imputed or synthetic images."""

from pathlib import Path

from pydantic import BaseModel, Field


class MarkConfig(BaseModel):
    """Which key the images are marked with, and as what batch (docs/watermark.md)."""

    mark_key: Path | None = Field(
        default=None,
        description="file of the key of the images' watermark (docs/watermark.md); null: no mark",
        json_schema_extra={"changes_results": False},  # the stage's key holds a name of this key instead
    )
    mark_batch: str = Field(
        default="1",
        min_length=1,
        description="what is marked together, such as a release; whoever looks for the mark has to name it",
    )
