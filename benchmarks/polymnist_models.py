"""Joint models of the codes of PolyMNIST, each as something that draws the codes of missing modalities."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from scipy.special import logsumexp
from torch import Tensor

from benchmarks.polymnist import CLASSES, MODALITIES
from files.writing import replacing
from models.joint.blocks import Blocks
from models.joint.diffusion import Diffusion, DiffusionConfig
from models.joint.diffusion_fit import STEP, fit_diffusion, held_out_loss
from models.joint.gaussian import JointGaussian, fit_estimate, log_density
from models.joint.posterior import draw
from models.joint.sums import sums_of

SECONDS, CURVE = "CPU s", "validation"  # of a kept state
Codes = NDArray[np.float64]
Labels = NDArray[np.int64]


class Draws(Protocol):
    """A fitted joint model."""

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Return rows (n, d) with their missing codes (NaN) drawn, once each."""
        ...


def blocks_of(code: int) -> Blocks:
    """Return the layout of the codes of a tuple."""
    return Blocks(MODALITIES, (code,) * len(MODALITIES))


@dataclass
class Linear:
    """The linear engine: one Gaussian, one mean a digit, or a single mean (K = 1) where labels are not to be used."""

    gaussian: JointGaussian

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw missing codes; the digit is not told."""
        return np.asarray(draw(self.gaussian, rows, 1, random, plug_in=True)[0][0])


def fit_linear(rows: Codes, labels: Labels, classes: int) -> Linear:
    """Fit the linear engine of `models.joint`."""
    blocks = blocks_of(rows.shape[1] // len(MODALITIES))
    known = labels if classes > 1 else np.zeros_like(labels)
    return Linear(fit_estimate(sums_of(rows, known, blocks, classes), tolerance=1e-4)[0])


@dataclass
class Mixture:
    """A linear engine for each digit: their mixture has a covariance a digit.

    Attributes:
        parts: of each digit.
        share: of each digit in training, (K,).
        mean: draw the mean given the digit in place of a draw.
    """

    parts: tuple[JointGaussian, ...]
    share: NDArray[np.float64]
    mean: bool = False

    def probabilities(self, rows: Codes) -> NDArray[np.float64]:
        """Return p(digit | codes that are there), (n, K)."""
        joint = np.stack([log_density(part, rows, plug_in=True) for part in self.parts], axis=1) + np.log(self.share)
        return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)))

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw the digit from what is there, then the missing codes given both."""
        chance = self.probabilities(rows).cumsum(axis=1)
        digit = (random.random((len(rows), 1)) * chance[:, -1:] >= chance).sum(axis=1)
        out = rows.copy()
        for k, part in enumerate(self.parts):
            if (own := np.flatnonzero(digit == k)).size:
                out[own] = draw(part, rows[own], 1, random, plug_in=True)[0][0]
        return out


def fit_mixture(rows: Codes, labels: Labels) -> Mixture:
    """Fit a linear engine of `models.joint` to the tuples of each digit."""
    blocks = blocks_of(rows.shape[1] // len(MODALITIES))
    parts = []
    for k in range(CLASSES):
        own = rows[labels == k]
        sums = sums_of(own, np.zeros(len(own), dtype=np.int64), blocks, 1)
        parts.append(fit_estimate(sums, tolerance=1e-4)[0])
    return Mixture(tuple(parts), np.bincount(labels, minlength=CLASSES) / len(labels))


@dataclass
class Diffused:
    """The diffusion engine.

    Attributes:
        engine: trained.
        curve: steps → loss on validation tuples, of the averaged weights.
        earlier_s: CPU seconds of training that were spent before this process.
    """

    engine: Diffusion
    curve: dict[int, float]
    earlier_s: float

    def draw(self, rows: Codes, random: np.random.Generator) -> Codes:
        """Draw missing codes; the digit is not told."""
        return np.asarray(self.engine.draw(rows, 1, random)[0][0])


def fit_diffused(
    codes: dict[str, Codes],
    labels: dict[str, Labels],
    classes: int,
    config: DiffusionConfig,
    folder: Path,
    *,
    device: str = "cpu",
) -> Diffused:
    """Train the diffusion engine of `models.joint`; with K = 1 it sees no labels, as the VAEs.

    Args:
        codes: of training and validation, each tuple with a modality at least.
        labels: digits of the same tuples.
        classes: 10, or 1 without labels.
        config: of the engine.
        folder: of states in training; a run that was stopped goes on from there.
        device: to train and draw on.
    """
    blocks = blocks_of(codes["train"].shape[1] // len(MODALITIES))
    known = {name: each if classes > 1 else np.zeros_like(each) for name, each in labels.items()}
    content = hashlib.sha256(np.nan_to_num(codes["train"], nan=-1e300).tobytes() + known["train"].tobytes())
    content.update(json.dumps([classes, asdict(config)]).encode())
    folder.mkdir(exist_ok=True)
    path = folder / f"diffusion-{content.hexdigest()[:16]}.safetensors"
    state = load_file(path) if path.is_file() else None
    earlier_s = 0.0 if state is None else float(state[SECONDS])
    curve: dict[int, float] = {}
    if state is not None:
        curve = {int(step): loss for step, loss in state[CURVE].tolist()}
    started, probe = time.process_time(), Diffusion(blocks, classes, config).eval()

    def keep(state: Mapping[str, Tensor]) -> None:
        averaged = {name.removeprefix("averaged."): each for name, each in state.items() if "averaged." in name}
        probe.load_state_dict(averaged)
        curve[int(state[STEP])] = held_out_loss(probe, codes["validation"], known["validation"])
        spent = torch.tensor(earlier_s + time.process_time() - started)
        with replacing(path) as partial_file:
            save_file({**state, SECONDS: spent, CURVE: torch.tensor(list(curve.items()))}, partial_file)

    engine = fit_diffusion(
        codes["train"], known["train"], blocks, classes, config, device=device, state=state, keep=keep
    )
    return Diffused(engine, curve, earlier_s)
