"""Where in a scan an answer comes from, as a NIfTI in the scan's own world: occlusion on the features of its slices."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.occlusion import occlusion_map
from pipeline.deployment.predictor import Predictor
from pipeline.store.base import ArtifactError
from pipeline.store.features import FeatureStore
from pipeline.store.predictions import PredictionSet
from pipeline.store.volumes import VolumeSet
from preprocessing.resample import voxel_size_mm
from preprocessing.slices import map_to_volume


def write_maps(
    reader: Predictor,
    patient: dict[str, Any],
    preprocess: VolumeSet,
    features: FeatureStore,
    out: PredictionSet,
) -> dict[str, str]:
    """Write a map for every volume that an answer used.

    A voxel holds how much the log odds of the most probable class, calibrated, fall when the region around it is left
    out of the scan, all else staying; negative where the region spoke against that class. (Probabilities near 1 would
    hardly move whatever is left out.)

    Returns:
        Scan → path of its map below the folder of the predictions. Pictures get none.

    The map lies in the scan's own world: if its volume was registered to another scan, it is moved back.

    Raises:
        ArtifactError: the features of slices are not there, or not finite numbers.
    """
    used = [scan for scan in patient["scans"] if scan["used"]]
    volumes = [s["scan"] for s in used if (preprocess.record(s["scan"]) or {}).get("kind") == "volume"]
    feature_maps = features.load([scan["scan"] for scan in used])
    modality = [reader.bundle.modalities.index(scan["modality"]) for scan in used]
    top = max(patient["probabilities"], key=patient["probabilities"].get)
    options = (features.manifest or {})["made_from"]["settings"]
    paths = {}
    for number, scan in enumerate(used):
        if scan["scan"] not in volumes:
            continue
        slices = features.slices(scan["scan"])
        if slices is None:
            raise ArtifactError(f"the features of {scan['scan']} hold no slices; rerun with --force features")
        if not slices.isfinite().all():
            raise ArtifactError(f"the slices of {scan['scan']} hold numbers that are not finite; --force features")
        volume, affine = _map_of(
            reader, number, feature_maps, modality, slices, preprocess.load_placed(scan["scan"]), options,
            wanted=reader.bundle.classes.index(top),
        )  # fmt: skip
        to_own_world = (preprocess.record(scan["scan"]) or {}).get("to_own_world")
        if to_own_world is not None:
            affine = np.array(to_own_world) @ affine
        description = f"HyperMM occlusion: fall of log odds of {top}"
        paths[scan["scan"]] = out.save_map(scan["scan"], volume, affine, description)
    return paths


def _map_of(
    reader: Predictor,
    number: int,
    feature_maps: Tensor,
    modality: list[int],
    slices: Tensor,
    placed: tuple[Tensor, Tensor, NDArray[np.float64]],
    options: dict[str, Any],
    *,
    wanted: int,
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The map of one scan of a set, on the grid of its preprocessed volume."""
    network = reader.network
    others = [i for i in range(len(feature_maps)) if i != number]
    with torch.inference_mode():
        rest = network.extractor(
            feature_maps[others], torch.tensor([modality[i] for i in others], dtype=torch.int64)
        ).flatten(1)

    def ask(changed: Tensor) -> Tensor:
        count = len(changed)
        phi = network.extractor(changed, torch.full((count,), modality[number])).flatten(1)
        each = torch.arange(count)
        sets = torch.cat([each, each.repeat_interleave(len(rest))])
        logits = network.classifier(torch.cat([phi, rest.repeat(count, 1)]), sets, count)
        calibrated = logits / reader.bundle.temperature
        against = torch.cat([calibrated[:, :wanted], calibrated[:, wanted + 1 :]], dim=1)
        return calibrated[:, wanted] - against.logsumexp(1)

    _, mask, affine = placed
    spacing_mm = voxel_size_mm(affine)
    view, slice_mm = options["field_of_view_mm"], options["slice_spacing_mm"]
    slab = max(1, round(view / slices.shape[3] / (slice_mm or spacing_mm[2])))  # about as thick as a cell is wide
    nothing = network.extractor.centre[modality[number]]
    cells = occlusion_map(slices, ask, slices_a_slab=slab, nothing=nothing)
    volume = map_to_volume(
        cells, mask, spacing_mm, slices_a_slab=slab, field_of_view_mm=view, slice_spacing_mm=slice_mm
    )
    return volume.numpy(), affine
