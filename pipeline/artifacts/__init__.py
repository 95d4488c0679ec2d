"""What stages write and read: each artifact owns its file names and checks what goes in and what comes out."""

from pipeline.artifacts.base import (
    Artifact,
    ArtifactError,
    DamagedError,
    read_json,
    read_record,
    write_json,
    write_record,
)
from pipeline.artifacts.comparison import ComparisonSet
from pipeline.artifacts.fitted import ClassifierSet, ExtractorSet, RepeatSet, ReportPage
from pipeline.artifacts.predictions import PredictionSet
from pipeline.artifacts.scans import BlockSet, PhantomCohort, PictureCohort, ScanSet, VolumeSet
from pipeline.artifacts.tables import CohortTables, SplitTables

__all__ = [
    "Artifact",
    "ArtifactError",
    "BlockSet",
    "ClassifierSet",
    "CohortTables",
    "ComparisonSet",
    "DamagedError",
    "ExtractorSet",
    "PhantomCohort",
    "PictureCohort",
    "PredictionSet",
    "RepeatSet",
    "ReportPage",
    "ScanSet",
    "SplitTables",
    "VolumeSet",
    "read_json",
    "read_record",
    "write_json",
    "write_record",
]
