"""The diffusion engine of a repeat: trained, or gone on with where a run was stopped."""

import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from console.errors import InputError
from models.joint.blocks import FloatArray
from models.joint.diffusion import DiffusionConfig
from models.joint.diffusion_fit import STEP, OtherNetworkError
from models.joint.diffusion_model import DiffusionModel, with_diffusion
from models.joint.model import JointModel
from pipeline.core.progress import Progress
from pipeline.core.provenance import digest

FORMAT = 2  # of a kept state; one of another format is not gone on from
NOT_OF_TRAINING = {"draw_steps", "keep_every"}  # settings that the trained network does not depend on

log = logging.getLogger("hypermm")


def diffusion_engine(
    model: JointModel,
    scores: FloatArray,
    labels: NDArray[np.int64],
    config: DiffusionConfig,
    *,
    device: torch.device,
    progress: Progress,
    state: Callable[[str], Mapping[str, Tensor] | None],
    keep: Callable[[str, Mapping[str, Tensor]], None],
) -> DiffusionModel:
    """Return the model with the diffusion engine, learnt from the same scores.

    Args:
        model: the linear one.
        scores: that it was learnt from, (n, d), NaN where a block is missing.
        labels: classes of the same patients, (n,).
        config: of the engine.
        device: to train on.
        progress: of the stage; it is advanced by `config.steps`.
        state: returns what was kept under a key, or None. A state of another network counts as none.
        keep: keeps a state under a key.

    Raises:
        InputError: the loss is not finite.
    """
    content = hashlib.sha256(np.ascontiguousarray(np.nan_to_num(scores, nan=-1e300)).tobytes() + labels.tobytes())
    blocks = [list(model.blocks.names), list(model.blocks.sizes), model.gaussian.classes]
    settings = {name: each for name, each in dataclasses.asdict(config).items() if name not in NOT_OF_TRAINING}
    key = digest([FORMAT, content.hexdigest(), blocks, settings])
    train = partial(with_diffusion, model, scores, labels, config, device=device, keep=partial(keep, key))
    kept, ahead = state(key), 0
    if kept is not None and STEP in kept:
        ahead = int(kept[STEP])
        progress.advance(ahead)
    steps = itertools.count(1)

    def advance_anew() -> None:
        if next(steps) > ahead:
            progress.advance()

    try:
        try:
            return train(state=kept, advance=progress.advance)
        except OtherNetworkError as error:
            log.warning("the diffusion engine is trained from its first step: %s", error)
            return train(advance=advance_anew)
    except FloatingPointError as error:
        raise InputError(
            f"the diffusion engine of {len(scores)} patients: {error} (diffusion.learning_rate)"
        ) from error
