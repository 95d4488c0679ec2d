"""The decoder kl of synthetic patients: networks trained on the training images of a repeat, and kept."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from console.errors import InputError
from models.joint.blocks import FloatArray
from models.joint.model import Features, JointModel
from pipeline.core.provenance import digest
from pipeline.core.runtime import Runtime
from pipeline.store.synthetic import SyntheticCohort
from synthesis.grid import box_shape
from synthesis.latent import LOSSES, STEP, LatentConfig, LatentModel, fit_latent, padded
from synthesis.patients import Drawn

FORMAT = 2  # of a kept state; one of another format is not gone on from
log = logging.getLogger("hypermm")
Decode = Callable[[Drawn, NDArray[np.int64]], Features]  # patients, and which of them → images (m, D)
Losses = tuple[tuple[int, float], ...]  # steps done, mean loss of those since the row before


def latent_decoders(
    model: JointModel,
    scores: FloatArray,
    labels: NDArray[np.int64],
    images: Mapping[str, Features],
    kinds: Mapping[str, str],
    out: SyntheticCohort,
    settings: LatentConfig,
    runtime: Runtime,
    *,
    spacing_mm: float,
    pixels: int,
) -> tuple[dict[str, Decode], dict[str, Losses]]:
    """Train the networks of each modality, or go on where a run was stopped.

    Returns:
        Modality → decoder, and modality → losses of its training.

    Args:
        model: of the feature maps.
        scores: that it was learnt from, (n, d), NaN where a modality is missing.
        labels: classes of the same patients, (n,).
        images: modality → rows on the grid, (n, D), NaN where it is missing.
        kinds: modality → kind.
        out: keeps the networks.
        settings: of the networks.
        runtime: of the stage.
        spacing_mm: voxel size of volumes.
        pixels: side of pictures.

    Raises:
        InputError: the loss is not finite.
    """
    found: dict[str, Decode] = {}
    losses: dict[str, Losses] = {}
    for number, (modality, rows) in enumerate(images.items()):
        there = np.flatnonzero(np.isfinite(rows[:, 0]))
        shape = (pixels, pixels, 3) if kinds[modality] == "image" else box_shape(spacing_mm)
        tensor = padded(_channels_first(rows[there], shape), settings.multiple)
        told = _condition(model, modality, scores[there], labels[there])
        key = digest([FORMAT, _hash(tensor), _hash(told), _of_training(settings)])
        kept = out.networks(number, key)
        left = settings.steps - (0 if kept is None else int(kept[STEP]))
        with runtime.progress(left, "step") as progress:
            try:
                network = fit_latent(
                    tensor,
                    told,
                    settings,
                    device=runtime.device,
                    state=kept,
                    keep=partial(_keep, out, number, key, modality, settings),
                    advance=progress.advance,
                )
            except FloatingPointError as error:
                raise InputError(f"decoder kl, {modality}: {error} (synthesise.kl.learning_rate)") from error
        losses[modality] = network.losses
        noise = 1_009 * settings.seed + number  # of its own for each modality: only scores and class are shared
        found[modality] = partial(_decode, network, model, modality, shape, noise)
    return found, losses


def _keep(
    out: SyntheticCohort, number: int, key: str, modality: str, settings: LatentConfig, state: Mapping[str, Tensor]
) -> None:
    """Write the state of a modality's networks, and its last loss into the log."""
    out.save_networks(number, key, state)
    step, loss = state[LOSSES][-1].tolist()
    part = "autoencoder" if step <= settings.autoencoder_steps else "flow"
    log.info("synthesise: %s, %s: mean loss %.4g up to step %d of %d", modality, part, loss, step, settings.steps)


def _decode(
    network: LatentModel,
    model: JointModel,
    modality: str,
    shape: tuple[int, ...],
    seed: int,
    patients: Drawn,
    members: NDArray[np.int64],
) -> Features:
    told = _condition(model, modality, patients.scores[members], patients.classes[members])
    made = network.draw(told, seed=seed * 1_000_003 + int(members[0])).cpu()
    if len(shape) == 3 and shape[-1] == 3:
        rows = made[:, :, : shape[0], : shape[1]].permute(0, 2, 3, 1)
    else:
        x, y, z = shape
        rows = made[:, 0, :x, :y, :z]
    return rows.reshape(len(members), -1).numpy()


def _channels_first(rows: Features, shape: tuple[int, ...]) -> Tensor:
    """Return rows (n, D) as pictures (n, 3, H, W) or volumes (n, 1, X, Y, Z)."""
    images = torch.from_numpy(rows).view(len(rows), *shape)
    return images.permute(0, 3, 1, 2).contiguous() if shape[-1] == 3 else images[:, None]


def _condition(model: JointModel, modality: str, scores: FloatArray, classes: NDArray[np.int64]) -> Tensor:
    """Return what the flow is told: the scores of the modality and the class, (n, c), float32."""
    own = scores[:, model.blocks.slice_of(modality)]
    return torch.from_numpy(np.concatenate([own, np.eye(model.gaussian.classes)[classes]], axis=1)).float()


def _hash(values: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(values.numpy()).tobytes()).hexdigest()


def _of_training(settings: LatentConfig) -> dict[str, object]:
    """Return the settings that the trained networks depend on."""
    values = dataclasses.asdict(settings)
    return {name: value for name, value in values.items() if name not in ("draw_steps", "keep_every")}
