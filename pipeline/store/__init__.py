"""What stages write and read: each artifact owns its file names and checks what goes in and what comes out."""

from pipeline.store.base import (
    Artifact,
    ArtifactError,
    DamagedError,
    read_json,
    read_record,
    write_json,
    write_record,
)
from pipeline.store.comparison import ComparisonSet
from pipeline.store.fitted import ClassifierSet, ExtractorSet, RepeatSet, ReportPage
from pipeline.store.predictions import PredictionSet
from pipeline.store.scans import BlockSet, PhantomCohort, PictureCohort, ScanSet, VolumeSet
from pipeline.store.tables import CohortTables, SplitTables

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
