"""What removes a gap between groups? Three remedies, tried on HyperMM where harm is planted.

Made feature maps of two modalities. Women are a fifth of the training patients. The sick show a sign; in women it may
be the same, another one, half as large, or none. HyperMM is trained as it is; with every sex and class counting alike
(each patient is there as often as makes them so); with as many of each sex and class as there are of the smallest
(others are left out by lot); and topped up to as many as of the largest with synthetic patients, drawn from a joint
model of the training patients that knows sex and class. All are tested on the same new patients, half of them women.

Nothing of this is applied by the pipeline: a choice between groups is one that people make.

Source: Idrissi et al. 2022, "Simple data balancing achieves competitive worst-group-accuracy" (counting alike, leaving
out).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.common import finish, options
from models.federated_hypermm import features_of
from models.hypermm import (
    Scans,
    Sets,
    fit_classifier,
    fit_extractor,
    new_classifier,
    new_extractor,
    predict_sets,
)
from models.joint.model import JointConfig, Patients, fit_model
from models.sets import Groups
from models.settings import StepOne, StepTwo, Training

Maps = NDArray[np.float32]
SHAPE, MODALITIES = (8, 2, 2), ("MRI", "PET")
TRAINING, TESTED, WOMEN = 120, 400, 0.2
EPOCHS = 6  # of φ at most
SIGNAL = 0.45  # of the class in each channel that shows it, in standard deviations of a patient
HARMS = {"none": (1.0, 0.0), "another sign": (0.0, 1.0), "half the sign": (0.5, 0.0), "no sign": (0.0, 0.0)}
"""Name → how much of the men's sign, and of one of their own, sick women show."""
REMEDIES = ("as it is", "counting alike", "leaving out", "synthetic top-up")


@dataclass(frozen=True)
class People:
    """Patients with both modalities.

    Attributes:
        maps: (n, M, C, H, W) float32.
        sick: class, (n,).
        woman: sex, (n,).
    """

    maps: Maps
    sick: NDArray[np.int64]
    woman: NDArray[np.int64]

    @property
    def cell(self) -> NDArray[np.int64]:
        """Sex and class as one number, (n,) in [0, 4)."""
        return 2 * self.woman + self.sick

    def rows(self, chosen: NDArray[np.int64]) -> "People":
        """Return some of them, in this order; one may be there several times."""
        return People(self.maps[chosen], self.sick[chosen], self.woman[chosen])


def main() -> None:
    """Measure, print and write."""
    parser = options(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=12, metavar="N", help="cohorts of each harm; default 12")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for seed in range(1 if arguments.quick else arguments.seeds):
        for harm in HARMS:
            for remedy, scores in compared(harm, seed, epochs=2 if arguments.quick else EPOCHS):
                rows.setdefault((harm, remedy), []).append(scores)
    found: dict[str, Any] = {}
    for (harm, remedy), each in rows.items():
        start = rows[harm, REMEDIES[0]]
        for name in each[0]:
            values = np.array([row[name] for row in each])
            found[f"{harm}, {remedy}: {name}"] = float(values.mean())
            if remedy != REMEDIES[0] and len(values) > 1:
                change = values - [row[name] for row in start]
                error = change.std(ddof=1) / np.sqrt(len(change))
                found[f"{harm}, {remedy}: {name}, change"] = f"{change.mean():+.3f} ± {error:.3f}"
    finish("fairness_remedies", found, arguments)


def people(count: int, women: float, harm: str, seed: int) -> People:
    """Return patients; the directions of the signs are the same for all seeds."""
    random, signs = np.random.default_rng([seed, count]), np.random.default_rng(0)
    usual, own = signs.standard_normal((2, len(MODALITIES), *SHAPE))
    sick = np.arange(count) % 2
    woman = (np.arange(count) // 2 % round(1 / women) == 0).astype(np.int64)
    of_usual, of_own = HARMS[harm]
    shown = np.where(woman[:, None] == 1, [[of_usual, of_own]], [[1.0, 0.0]]) * SIGNAL * (sick[:, None] - 0.5)
    sex = 0.3 * (woman - 0.5)[:, None, None, None, None]  # women differ a little, sick or not
    maps = random.standard_normal((count, len(MODALITIES), *SHAPE)) + sex
    maps += np.einsum("ns,s...->n...", shown, np.stack([usual, own]))
    return People(maps.astype(np.float32), sick.astype(np.int64), woman)


def compared(harm: str, seed: int, *, epochs: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each remedy with its scores on new patients."""
    everybody, tested = people(TRAINING * 5 // 4, WOMEN, harm, seed), people(TESTED, 0.5, harm, 1000 + seed)
    held = np.arange(len(everybody.sick)) // 10 % 5 == 4
    train, validation = (everybody.rows(np.flatnonzero(part)) for part in (~held, held))
    random = np.random.default_rng([seed, 5])
    for remedy in REMEDIES:
        p = trained(remedied(train, remedy, random), validation, tested, seed=seed, epochs=epochs)
        yield remedy, scores_of(p, tested)


def remedied(train: People, remedy: str, random: np.random.Generator) -> People:
    """Return training patients after a remedy."""
    cells, counts = np.unique(train.cell, return_counts=True)
    members = [np.flatnonzero(train.cell == cell) for cell in cells]
    if remedy == "counting alike":
        times = [round(counts.max() / count) for count in counts]
        return train.rows(np.concatenate([np.repeat(own, n) for own, n in zip(members, times, strict=True)]))
    if remedy == "leaving out":
        return train.rows(np.concatenate([random.permutation(own)[: counts.min()] for own in members]))
    if remedy == "synthetic top-up":
        return _topped_up(train, cells, counts.max() - counts, random)
    return train


def _topped_up(
    train: People, cells: NDArray[np.int64], lacking: NDArray[np.int64], random: np.random.Generator
) -> People:
    flat = train.maps.reshape(len(train.sick), len(MODALITIES), -1)
    patients = Patients({name: flat[:, m] for m, name in enumerate(MODALITIES)}, {})
    model, _ = fit_model(patients, train.cell, int(cells.max()) + 1, JointConfig(draws=5))
    labels = np.repeat(cells, lacking)
    unknown = np.full((len(labels), flat.shape[2]), np.nan, dtype=np.float32)
    drawn, _ = model.draw(Patients(dict.fromkeys(MODALITIES, unknown), {}), 1, random, labels)
    maps = np.stack([drawn[name][0] for name in MODALITIES], axis=1).reshape(-1, len(MODALITIES), *SHAPE)
    return People(
        np.concatenate([train.maps, maps.astype(np.float32)]), np.concatenate([train.sick, labels % 2]),
        np.concatenate([train.woman, labels // 2]),
    )  # fmt: skip


def trained(train: People, validation: People, tested: People, *, seed: int, epochs: int) -> NDArray[np.float64]:
    """Return the probability of being sick for tested patients, (n,), of a HyperMM trained on others."""
    parts = (train, validation, tested)
    sizes = np.cumsum([0, *(len(part.sick) for part in parts)])
    maps = torch.from_numpy(np.concatenate([part.maps for part in parts]))
    target = torch.from_numpy(np.concatenate([part.sick for part in parts]))
    count, many = len(target), len(MODALITIES)
    owner, modality = torch.arange(count).repeat_interleave(many), torch.arange(many).repeat(count)
    rows = [torch.arange(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    of_scans = [torch.arange(a * many, b * many) for a, b in zip(sizes, sizes[1:], strict=False)]
    scans = Scans(maps.flatten(0, 1), modality, target[owner], of_scans[0], of_scans[1])
    # copies of a patient are one subject, so that no inner fold learns from a copy of whom it tests
    _, subject = np.unique(maps.flatten(1).numpy(), axis=0, return_inverse=True)
    sets = Sets(Groups.of(owner, count), target, rows[0], rows[1], torch.from_numpy(subject.reshape(-1)))
    phi = new_extractor(StepOne(), modalities=many, feature_map_shape=SHAPE, classes=2, seed=seed)
    training = Training(epochs=epochs, learning_rate=3e-3, patience=5, seed=seed)
    fit_extractor(phi, scans, StepOne(), training)
    features = features_of(phi.extractor, scans)
    rho = new_classifier(StepTwo(), feature_map_shape=SHAPE, classes=2, seed=seed)
    fit_classifier(rho, features, sets, StepTwo(), training)
    found: NDArray[np.float64] = predict_sets(rho, features, sets.groups.of_sets(rows[2]))[:, 1].numpy()
    return found


def scores_of(p: NDArray[np.float64], tested: People) -> dict[str, float]:
    """Return AUC and sensitivity, at one half, of women and of men, and the gaps between them."""
    found: dict[str, float] = {}
    for name, of in (("women", 1), ("men", 0)):
        own = tested.woman == of
        found[f"AUC of {name}"] = float(roc_auc_score(tested.sick[own], p[own]))
        found[f"sensitivity of {name}"] = float((p[own & (tested.sick == 1)] >= 0.5).mean())
    for name in ("AUC", "sensitivity"):
        found[f"{name}, men minus women"] = found[f"{name} of men"] - found[f"{name} of women"]
    return found


if __name__ == "__main__":
    main()
