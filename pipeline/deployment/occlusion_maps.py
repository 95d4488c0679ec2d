"""Occlusion maps per scan, as NIfTI files in the scan's world coordinates, from the feature maps of its slices."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.occlusion import occlusion_map
from pipeline.deployment.predictor import Predictor
from pipeline.store.base import ArtifactError
from pipeline.store.predictions import PredictionSet
from pipeline.store.volumes import VolumeSet
from pipeline.training.feature_maps import FeatureMaps
from preprocessing.resample import voxel_size_mm
from preprocessing.slices import map_to_volume


def write_maps(
    predictor: Predictor,
    patient: dict[str, Any],
    preprocess: VolumeSet,
    features: FeatureMaps,
    out: PredictionSet,
) -> dict[str, str]:
    """Write an occlusion map for every volume used in a prediction.

    A voxel holds how much the log odds of the most probable class, calibrated, fall when the region around it is left
    out of the scan, everything else unchanged; negative where the region spoke against that class. (Probabilities near
    1 would hardly change whatever is left out.)

    Returns:
        Scan → path of its map below the folder of the predictions. Pictures and tables have none.

    The map is in the scan's own world coordinates: if its volume was registered to another scan, it is moved back.

    Raises:
        ArtifactError: the feature maps of slices are missing, or not finite.
    """
    used = [scan for scan in patient["scans"] if scan["used"]]
    volumes = [s["scan"] for s in used if (preprocess.record(s["scan"]) or {}).get("kind") == "volume"]
    feature_maps = features.load([scan["scan"] for scan in used])
    modality = [predictor.bundle.modalities.index(scan["modality"]) for scan in used]
    top = max(patient["probabilities"], key=patient["probabilities"].get)
    options = (features.store.manifest or {})["made_from"]["settings"]
    paths = {}
    for number, scan in enumerate(used):
        if scan["scan"] not in volumes:
            continue
        slices = features.store.slices(scan["scan"])
        if slices is None:
            raise ArtifactError(f"the features of {scan['scan']} hold no slices; rerun with --force features")
        if not slices.isfinite().all():
            raise ArtifactError(f"the slices of {scan['scan']} hold numbers that are not finite; --force features")
        volume, affine = _map_of(
            predictor, number, feature_maps, modality, slices, preprocess.load_placed(scan["scan"]), options,
            wanted=predictor.bundle.classes.index(top),
        )  # fmt: skip
        to_own_world = (preprocess.record(scan["scan"]) or {}).get("to_own_world")
        if to_own_world is not None:
            affine = np.array(to_own_world) @ affine
        description = f"HyperMM occlusion: fall of log odds of {top}"
        paths[scan["scan"]] = out.save_map(scan["scan"], volume, affine, description)
    return paths


def _map_of(
    predictor: Predictor,
    number: int,
    feature_maps: Tensor,
    modality: list[int],
    slices: Tensor,
    placed: tuple[Tensor, Tensor, NDArray[np.float64]],
    options: dict[str, Any],
    *,
    wanted: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Compute the map of one scan of a set, on the grid of its preprocessed volume."""
    network = predictor.network
    others = [i for i in range(len(feature_maps)) if i != number]
    with torch.inference_mode():
        rest = network.extractor(
            feature_maps[others], torch.tensor([modality[i] for i in others], dtype=torch.int64)
        ).flatten(1)

    def log_odds(changed: Tensor) -> Tensor:
        count = len(changed)
        phi = network.extractor(changed, torch.full((count,), modality[number])).flatten(1)
        each = torch.arange(count)
        sets = torch.cat([each, each.repeat_interleave(len(rest))])
        logits = network.classifier(torch.cat([phi, rest.repeat(count, 1)]), sets, count)
        calibrated = logits / predictor.bundle.temperature
        against = torch.cat([calibrated[:, :wanted], calibrated[:, wanted + 1 :]], dim=1)
        return calibrated[:, wanted] - against.logsumexp(1)

    _, mask, affine = placed
    spacing_mm = voxel_size_mm(affine)
    view, slice_mm = options["field_of_view_mm"], options["slice_spacing_mm"]
    slab = max(1, round(view / slices.shape[3] / (slice_mm or spacing_mm[2])))  # about as thick as a cell is wide
    nothing = network.extractor.centre[modality[number]]
    cells = occlusion_map(slices, log_odds, slices_a_slab=slab, nothing=nothing)
    volume = map_to_volume(
        cells, mask, spacing_mm, slices_a_slab=slab, field_of_view_mm=view, slice_spacing_mm=slice_mm
    )
    return volume.numpy(), affine
