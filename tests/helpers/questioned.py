"""Made patients with known truth: two modalities whose signs go together and do not cause each other."""

from dataclasses import dataclass

import numpy as np

from models.joint.blocks import Blocks
from models.joint.gaussian import JointGaussian
from models.joint.posterior import fit
from models.joint.sums import sums_of

BLOCKS = Blocks(("MRI", "PET", "covariate severity"), (4, 4, 1))
SIGNS = Blocks(("MRI", "PET", "covariate severity"), (1, 1, 1))
NOISE = 0.1  # of a sign, in its own unit


@dataclass(frozen=True)
class Made:
    """Training scores and their model, and test patients."""

    model: JointGaussian
    rows: np.ndarray
    labels: np.ndarray
    tested: np.ndarray


def phantoms(seed: int, *, penetrance: float = 0.7, patients: int = 300, draws: int = 30) -> Made:
    """Like the demo's phantoms: of the diseased, each modality shows its sign with a chance, but one of them always.

    P(PET sign | disease, MRI sign) - P(PET sign | disease, no MRI sign) = (penetrance - 1) / penetrance, and setting
    the MRI sign changes PET by nothing. A modality has one score, its sign.
    """
    random = np.random.default_rng([seed, 77])

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        which = random.random(count)  # P(both) = 2 penetrance - 1, each alone 1 - penetrance
        signs = np.stack([which < penetrance, (which < 2 * penetrance - 1) | (which >= penetrance)], axis=1)
        signs &= labels[:, None] == 1
        rows = NOISE * random.standard_normal((count, 3))
        rows[:, :2] += signs
        rows[:, 2] = random.standard_normal(count)
        return rows, labels

    rows, labels = draw(patients)
    tested, truth = draw(100)
    return Made(fit(sums_of(rows, labels, SIGNS, 2), draws=draws, seed=seed), rows, labels, tested[truth == 1])


def confounded(seed: int, *, patients: int = 300, draws: int = 30) -> Made:
    """Severity makes the signs of both modalities; MRI does nothing to PET. Severity is a covariate that is known."""
    random = np.random.default_rng([seed, 78])

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        severity = random.standard_normal(count) + labels
        rows = random.standard_normal((count, BLOCKS.width))
        rows[:, 0] += severity
        rows[:, 4] += severity
        rows[:, 8] = severity
        return rows, labels

    rows, labels = draw(patients)
    return Made(fit(sums_of(rows, labels, BLOCKS, 2), draws=draws, seed=seed), rows, labels, draw(100)[0])
