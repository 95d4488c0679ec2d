"""What is measured of a joint model of PolyMNIST: coherence given some modalities, joint coherence, kernel distance."""

import itertools

import numpy as np

from benchmarks.polymnist import MODALITIES
from benchmarks.polymnist_models import Codes, Draws, Labels
from benchmarks.polymnist_networks import Studio
from evaluation.generated.distributions import kernel_distance


def conditional_coherence(
    model: Draws, studio: Studio, rows: Codes, labels: Labels, *, seed: int = 0
) -> dict[int, float]:
    """Return number of given modalities → share of drawn pictures of another in which the judge sees the digit.

    Every modality with a judge is drawn from every subset of the others; subsets of one size count alike.

    Args:
        model: fitted.
        studio: bases and judges.
        rows: codes of test tuples, (n, M · code).
        labels: their digits.
        seed: of the draws.
    """
    random = np.random.default_rng([seed, 31])
    count = len(MODALITIES)
    found: dict[int, list[float]] = {size: [] for size in range(1, count)}
    for size in found:
        for given in itertools.combinations(range(count), size):
            hidden = rows.copy()
            others = [m for m in range(count) if m not in given]
            if not (judged := [m for m in others if m in studio.judges]):
                continue
            for m in others:
                hidden[:, _part(m, studio)] = np.nan
            drawn = model.draw(hidden, random)
            found[size] += [float((studio.judged(drawn[:, _part(m, studio)], m) == labels).mean()) for m in judged]
    return {size: float(np.mean(shares)) for size, shares in found.items()}


def joint_coherence(model: Draws, studio: Studio, count: int, *, seed: int = 0) -> tuple[float, Codes]:
    """Return the share of tuples drawn from nothing whose judges all see one digit, and their codes."""
    drawn = model.draw(np.full((count, len(MODALITIES) * studio.code), np.nan), np.random.default_rng([seed, 32]))
    seen = np.stack([studio.judged(drawn[:, _part(m, studio)], m) for m in studio.judges])
    return float((seen == seen[0]).all(axis=0).mean()), drawn


def distances(studio: Studio, drawn: Codes, real: dict[int, Codes]) -> dict[int, float]:
    """Return the kernel distance of drawn from test pictures by the judge's features, of each judged modality.

    Args:
        studio: bases and judges.
        drawn: codes, (n, M · code).
        real: the judges' features of test pictures, (n, 128) each.
    """
    return {m: kernel_distance(rows, studio.features(drawn[:, _part(m, studio)], m)) for m, rows in real.items()}


def _part(modality: int, studio: Studio) -> slice:
    return slice(modality * studio.code, (modality + 1) * studio.code)
