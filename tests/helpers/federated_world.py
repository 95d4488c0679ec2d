"""Sites whose patients have modalities of their own, as feature maps with the class in them."""

import numpy as np
import torch

from models.federated_hypermm import Layout, LocalSite, Rounds
from models.hypermm import Scans, Sets
from models.sets import Groups

SHAPE, SETTINGS = (4, 2, 2), "same"
LAYOUT = Layout(2, 2, SHAPE)


def patients(count: int, has: str, seed: int, signal: float = 1.0) -> tuple[Scans, Sets]:
    """Scans and sets; `has`: "both", "first", "second" (modality); three fifths are trained on, one validates."""
    random = np.random.default_rng(seed)
    direction = np.random.default_rng(0).standard_normal((2, *SHAPE))  # the same at all sites
    maps, modality, owner, labels = [], [], [], np.arange(count) % 2
    for number in range(count):
        for m in {"both": (0, 1), "first": (0,), "second": (1,)}[has]:
            noise = random.standard_normal(SHAPE)
            maps.append(3 * (m + 1) + (m + 1) * (noise + signal * (labels[number] - 0.5) * direction[m]))
            modality.append(m)
            owner.append(number)
    part = np.arange(count) // 2 % 5  # 0-2 train, 3 validation, 4 test
    of_scan, target = part[owner], torch.from_numpy(labels)
    where = {name: np.isin(part, kept) for name, kept in (("train", (0, 1, 2)), ("validation", (3,)))}
    rows = {name: torch.from_numpy(np.flatnonzero(np.isin(of_scan, kept))) for name, kept in
            (("train", (0, 1, 2)), ("validation", (3,)))}  # fmt: skip
    kinds, sets = torch.tensor(modality), {n: torch.from_numpy(np.flatnonzero(v)) for n, v in where.items()}
    scans = Scans(
        torch.from_numpy(np.stack(maps).astype(np.float32)), kinds, target[owner], rows["train"], rows["validation"]
    )
    groups = Groups.of(torch.tensor(owner), count)
    return scans, Sets(groups, target, sets["train"], sets["validation"], kinds, torch.arange(count))


def site(name: str, has: str, seed: int, rounds: Rounds, *, count: int = 60, settings: str = SETTINGS) -> LocalSite:
    """A site with patients of its own."""
    return LocalSite(name, settings, LAYOUT, *patients(count, has, seed), rounds)
