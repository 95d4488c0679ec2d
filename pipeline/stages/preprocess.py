"""Skull strip, resample and normalise every scan, once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.artifacts import CohortTables, VolumeSet
from pipeline.provenance import digest, result_settings
from pipeline.runtime import Runtime
from pipeline.scanwise import each_scan, scan_contents
from pipeline.stage import Stage
from pipeline.stages.cohort import STAGE as COHORT


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


def preprocess(cohort: CohortTables, out: VolumeSet, config: PreprocessConfig, runtime: Runtime) -> None:
    """Write a volume in [0, 1], its mask and a QC picture per scan; pictures are kept as they are."""
    import numpy as np
    import torch
    from monai.transforms import Compose

    from preprocessing.io import png_bytes, read_picture, read_volume
    from preprocessing.qc import three_planes
    from preprocessing.skull_strip import SkullStripper
    from preprocessing.transforms import find_brain, normalise_brain

    scans = cohort.scans().set_index("scan", drop=False)
    material = [STAGE.version, result_settings(config), _outside(config)]
    keys = {row.scan: digest([material, row.sha256, row.kind, row.skull_strip]) for row in scans.itertuples()}
    stripper = SkullStripper(config.skull_strip_mode, device=runtime.device, precision=config.precision)
    finders = {"True": find_brain(stripper), "False": find_brain(None)}
    finish: Compose = normalise_brain(spacing_mm=config.spacing_mm)

    def load(scan: str) -> Any:
        read = read_volume if scans.at[scan, "kind"] == "volume" else read_picture
        return read(Path(scans.at[scan, "path"]))

    def work(scan: str, image: Any) -> Any:
        if scans.at[scan, "kind"] == "image":
            return image
        found = finders[scans.at[scan, "skull_strip"]]({"image": image.to(runtime.device)})
        done = finish(found)
        whole = [found[k][0].as_tensor().cpu().numpy() for k in ("image", "mask")]
        spacing = np.linalg.norm(np.asarray(found["image"].affine)[:3, :3], axis=0)
        volume, mask = (done[k][0].as_tensor().cpu().numpy() for k in ("image", "mask"))
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return whole, tuple(spacing), volume, mask, np.asarray(done["image"].affine)

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        if scans.at[scan, "kind"] == "image":
            out.save_picture(scan, png_bytes(result))
            return {"kind": "image", "pixels": result.shape[:2]}
        (whole, whole_mask), whole_spacing, volume, mask, affine = result
        qc = png_bytes(three_planes(whole, whole_mask, whole_spacing))
        out.save_volume(scan, volume, mask, affine, qc)
        brain_ml = float(mask.sum()) * config.spacing_mm**3 / 1000
        return {"kind": "volume", "brain_ml": round(brain_ml, 1), "precision": str(stripper.dtype)}

    each_scan(keys, out, runtime, load=load, work=work, save=save)
    runtime.results |= scan_contents(out, keys)


def _outside(config: PreprocessConfig) -> Any:
    """The hashes of the HD-BET parameters used."""
    from preprocessing.parameters import PARAMETERS_SHA256

    return PARAMETERS_SHA256[: 1 if config.skull_strip_mode == "fast" else 5]


STAGE = Stage(
    preprocess, config=PreprocessConfig, writes=VolumeSet, version=2, reads={"cohort": COHORT}, outside=_outside
)
