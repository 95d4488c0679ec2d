"""Compute the backbone feature map of every preprocessed scan, once."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from console.errors import InputError
from devices.out_of_memory import Fallback, run_with_oom_fallback
from models.backbone import Backbone, load_backbone, make_ready, pool_slices
from models.weights import WeightsError
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.specs.features import STAGE, FeaturesConfig, SpacingMm
from pipeline.store.features import FeatureStore
from pipeline.store.volumes import VolumeSet
from preprocessing.slices import picture_to_slice, volume_to_slices


def features(preprocess: VolumeSet, out: FeatureStore, config: FeaturesConfig, runtime: Runtime) -> None:
    """Write one float32 feature map (C, H, W) per scan. Source: HyperMM, section 3.1 and figure 2.

    Raises:
        InputError: the backbone's weights are missing; the message says how to get them.
    """
    job = features_job(preprocess, out, config, runtime)
    each_scan(job, out, runtime)
    runtime.results |= scan_contents(out, job.keys)
    if not job.keys:  # tables only: they take the shape that images would have
        runtime.results["feature_map_shape"] = list(loaded_backbone(config, runtime).feature_map_shape)


def features_job(preprocess: VolumeSet, out: FeatureStore, config: FeaturesConfig, runtime: Runtime) -> ScanJob:
    """Return the job that computes the feature map of one scan."""
    volumes = preprocess.scans()
    material = [STAGE.version, result_settings(config), STAGE.external_state(config)]
    keys = {scan: digest([material, content]) for scan, content in volumes.items()}

    @functools.cache
    def backbone(device: str) -> Backbone:
        """Load the backbone at the first scan that needs it."""
        return loaded_backbone(config, dataclasses.replace(runtime, device_name=device))

    def load(scan: str) -> Any:
        if (preprocess.record(scan) or {}).get("kind") == "image":
            return picture_to_slice(preprocess.load_picture(scan))
        volume, mask, spacing_mm = preprocess.load_volume(scan)
        return volume_to_slices(
            volume,
            mask,
            spacing_mm,
            field_of_view_mm=config.field_of_view_mm,
            slice_spacing_mm=config.slice_spacing_mm,
        )

    def feature_maps_of(scan: str, slices: Any, device: str) -> Tensor:
        batch_slices = slices_a_pass(config, runtime)
        return pool_slices(
            backbone(device), slices, batch_slices=batch_slices, keep_slices=config.keep_slices, name=scan
        )

    def work(scan: str, slices: Any) -> Any:
        attempts = [  # a GPU that others have filled has no room for the network itself
            Fallback(label, functools.partial(feature_maps_of, scan, slices, device))
            for label, device in ((f"the backbone on {runtime.device}", runtime.device_name), ("the CPU", "cpu"))
        ]
        feature_maps = run_with_oom_fallback(f"feature maps of {scan}", attempts)
        return (feature_maps.amax(0).cpu(), feature_maps.cpu()) if config.keep_slices else (feature_maps.cpu(), None)

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        feature_map, slices = result
        out.save(scan, feature_map, slices)
        return {"shape": list(feature_map.shape)}

    return ScanJob(keys, load, work, save)


def slices_a_pass(config: FeaturesConfig, runtime: Runtime) -> int:
    """Return the number of slices per forward pass."""
    return config.batch_slices or (4 if runtime.device.type == "cpu" else 64)


def loaded_backbone(config: FeaturesConfig, runtime: Runtime) -> Backbone:
    """Load the frozen network on its device, in its precision.

    Raises:
        InputError: its weights are missing.
    """
    try:
        path = config.weights if isinstance(config.weights, Path) else None
        seed = config.random_seed if config.weights == "random" else None
        backbone = load_backbone(config.backbone, weights=path, random_seed=seed)
    except WeightsError as error:
        raise InputError(str(error)) from error
    return make_ready(backbone, runtime.device, config.precision)


def feature_map_maker(config: FeaturesConfig, runtime: Runtime) -> Callable[[Tensor, Tensor, SpacingMm], Tensor]:
    """Return a function from volume, mask and voxel size to the feature map, for volumes outside of the cohort."""
    backbone = loaded_backbone(config, runtime)

    def make(volume: Tensor, mask: Tensor, spacing_mm: SpacingMm) -> Tensor:
        slices = volume_to_slices(
            volume,
            mask,
            spacing_mm,
            field_of_view_mm=config.field_of_view_mm,
            slice_spacing_mm=config.slice_spacing_mm,
        )
        return pool_slices(backbone, slices, batch_slices=slices_a_pass(config, runtime)).cpu()

    return make
