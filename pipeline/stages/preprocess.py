"""Skull strip, resample and normalise every scan, once."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from console.errors import InputError
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.runner.stage import Stage
from pipeline.stages.cohort import STAGE as COHORT
from pipeline.store import CohortTables, VolumeSet
from preprocessing.limits import LARGEST_EXTENT_MM, Limits

if TYPE_CHECKING:
    import pandas as pd


class PreprocessConfig(BaseModel):
    """How a scan becomes a brain in [0, 1] at one voxel size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: float = Field(default=1.5, gt=0.2, le=20, description="voxel size after bicubic resampling, mm")
    skull_strip_mode: Literal["fast", "accurate"] = Field(
        default="fast", description="HD-BET: fast is one network, accurate is five with mirroring (40 passes)"
    )
    precision: Literal["auto", "fp32"] = Field(
        default="auto", description="of HD-BET: auto is half precision where the device is fast at it"
    )
    register_to: dict[str, str] | None = Field(
        default=None,
        description="modality → modality of the same patient and session that it is rigidly registered to, whose brain "
        "mask then serves both, such as {PET: MRI}; a scan without such a partner is stripped by itself",
    )
    largest_extent_mm: float = Field(
        default=LARGEST_EXTENT_MM,
        gt=0,
        description="a scan whose frame is longer along an axis is left out; a head takes less than 500, full PET 815",
        json_schema_extra={"changes_results": False},
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="main memory that the scans of a process may take together; one that needs more is left out; null: "
        "three quarters of the machine's",
        json_schema_extra={"changes_results": False},
    )
    weights: Literal["published"] | Path = Field(
        default="published",
        description="HD-BET's parameters: published, as installed; or the folder that holds 0.model … 4.model",
        json_schema_extra={"changes_results": False},
    )


def preprocess(cohort: CohortTables, out: VolumeSet, config: PreprocessConfig, runtime: Runtime) -> None:
    """Write a volume in [0, 1], its mask and a QC picture per scan; pictures are kept as they are."""
    job = preprocess_job(cohort, out, config, runtime)
    each_scan(job, out, runtime)
    for scan in sorted(job.later):
        if reason := (out.record(scan) or {}).get("not_registered"):
            runtime.note(f"{scan} was not registered, and its brain was found in itself: {reason}")
    runtime.results |= scan_contents(out, job.keys)


def preprocess_job(cohort: CohortTables, out: VolumeSet, config: PreprocessConfig, runtime: Runtime) -> ScanJob:
    """The work on one scan."""
    import torch

    from devices.out_of_memory import Attempt, first_that_fits
    from preprocessing.brains import Beside, Tools, brain_of
    from preprocessing.io import png_bytes, read_picture, read_volume

    limits = Limits(config.largest_extent_mm, config.memory_gb)
    scans = cohort.scans().set_index("scan", drop=False)
    targets = _targets(scans, config)
    keys = _keys(scans, targets, config)

    @functools.cache
    def tools(device: torch.device) -> Tools:
        """What volumes need, made at the first of them."""
        return Tools.ready(
            config.skull_strip_mode,
            device=device,
            precision=config.precision,
            parameters=config.weights if isinstance(config.weights, Path) else None,
            spacing_mm=config.spacing_mm,
            limits=limits,
        )

    def source(scan: str) -> Any:
        """The scan as it came, if it is still what was hashed."""
        row = scans.loc[scan]
        read = read_picture if row["kind"] == "image" else read_volume
        return read(Path(row["path"]), sha256=row["sha256"], limits=limits)

    def load(scan: str) -> Any:
        if scans.at[scan, "kind"] == "image":
            return source(scan)
        target = targets.get(scan)
        beside = None
        if target is not None and (out.failure(target, keys[target]) or {}).get("again"):
            raise RuntimeError(f"it is to be registered to {target}, which failed, but may not fail again")
        if target is not None and out.has(target, keys[target]):
            beside = Beside(target, source(target), *out.load_placed(target))
        return source(scan), beside

    def work(scan: str, loaded: Any) -> Any:
        if scans.at[scan, "kind"] == "image":
            return loaded
        strip = scans.at[scan, "skull_strip"] == "True"
        attempts = [
            Attempt(words, functools.partial(brain_of, tools(device), *loaded, strip=strip))
            for words, device in ((str(runtime.device), runtime.device), ("the CPU", torch.device("cpu")))
        ]
        brain = first_that_fits(f"preprocessing of {scan}", attempts)
        if scan in targets and loaded[1] is None:
            brain.facts["not_registered"] = f"{targets[scan]} could not be used"
        return brain

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        if scans.at[scan, "kind"] == "image":
            out.save_picture(scan, png_bytes(result))
            return {"kind": "image", "pixels": result.shape[:2]}
        out.save_volume(scan, result.volume, result.mask, result.affine, png_bytes(result.qc))
        brain_ml = float(result.mask.sum()) * config.spacing_mm**3 / 1000
        return {"kind": "volume", "brain_ml": round(brain_ml, 1), **result.facts}

    nothing_is_learnt = not cohort.classes()
    return ScanJob(keys, load, work, save, later=frozenset(targets), all_may_fail=nothing_is_learnt)


def _targets(scans: "pd.DataFrame", config: PreprocessConfig) -> dict[str, str]:
    """Scan → the scan of the same observation that it is to be registered to, the first where there are several."""
    partners = config.register_to or {}
    first = scans.sort_index().drop_duplicates(["observation", "modality"])  # the index is the scan too
    there = dict(zip(zip(first["observation"], first["modality"], strict=True), first["scan"], strict=True))
    wanted = scans[scans["modality"].isin(partners) & (scans["kind"] == "volume")]
    pairs = {row.scan: there.get((row.observation, partners[row.modality])) for row in wanted.itertuples()}
    return {scan: target for scan, target in pairs.items() if target is not None}


def _keys(scans: "pd.DataFrame", targets: Mapping[str, str], config: PreprocessConfig) -> dict[str, str]:
    """Scan → hash of all that its result depends on: for a registered one, of the other scan too."""
    settings = {name: value for name, value in result_settings(config).items() if name != "register_to"}
    material = [STAGE.version, settings, _outside(config)]
    own = {row.scan: [row.sha256, row.kind, row.skull_strip] for row in scans.itertuples()}
    beside = {scan: [own[target]] for scan, target in targets.items()}
    return {scan: digest([material, *facts, *beside.get(scan, ())]) for scan, facts in own.items()}


def _outside(config: PreprocessConfig) -> Any:
    """The hashes of the HD-BET parameters used."""
    from preprocessing.parameters import PARAMETERS_SHA256

    return PARAMETERS_SHA256[: 1 if config.skull_strip_mode == "fast" else 5]


def _ready(config: PreprocessConfig) -> None:
    """The parameter files are in the folder that was named, and the published ones."""
    from preprocessing.parameters import ParametersError, numbers_of, read_parameters

    if isinstance(config.weights, Path):
        try:
            for number in numbers_of(config.skull_strip_mode):
                read_parameters(number, config.weights)
        except ParametersError as error:
            raise InputError(str(error)) from error


STAGE = Stage(
    preprocess,
    config=PreprocessConfig,
    writes=VolumeSet,
    version=2,
    reads={"cohort": COHORT},
    outside=_outside,
    ready=_ready,
    job=preprocess_job,
)
