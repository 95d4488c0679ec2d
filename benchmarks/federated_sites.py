"""Made sites for federated training: feature maps with the class in them, and patients with modalities of their own."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from models.federated_hypermm import Arrays, Layout, LocalSite, Rounds, predict
from models.hypermm import Scans, Sets
from models.sets import Groups

SHAPE, SETTINGS = (4, 2, 2), "same"
LAYOUT = Layout(2, 2, SHAPE)
OWNS: Mapping[str, tuple[int, ...]] = {"both": (0, 1), "first": (0,), "second": (1,)}


def patients(count: int, has: str, seed: int, *, signal: float = 1.0) -> tuple[Scans, Sets]:
    """Return the scans and sets of patients, half of each class; three fifths are trained on, one fifth validates.

    Args:
        count: of patients.
        has: "both" modalities, the "first" or the "second".
        seed: of these patients; what the class changes is the same for all seeds.
        signal: how far the classes are apart.
    """
    random = np.random.default_rng(seed)
    direction = np.random.default_rng(0).standard_normal((2, *SHAPE))
    labels = np.arange(count) % 2
    owner = np.repeat(np.arange(count), len(OWNS[has]))
    modality = np.tile(OWNS[has], count)
    moved = (labels[owner] - 0.5)[:, None, None, None] * signal * direction[modality]
    size = (modality + 1)[:, None, None, None]  # modalities differ in centre and spread
    maps = size * (3 + random.standard_normal((len(owner), *SHAPE)) + moved)
    part = np.arange(count) // 2 % 5
    scans, sets = (
        {name: torch.from_numpy(np.flatnonzero(np.isin(of, kept))) for name, kept in PARTS.items()}
        for of in (part[owner], part)
    )
    target, kinds = torch.from_numpy(labels), torch.from_numpy(modality)
    single = Scans(torch.from_numpy(maps.astype(np.float32)), kinds, target[owner], scans["train"], scans["validation"])
    groups = Groups.of(torch.from_numpy(owner), count)
    return single, Sets(groups, target, sets["train"], sets["validation"], torch.arange(count))


PARTS = {"train": (0, 1, 2), "validation": (3,)}


def site(name: str, has: str, seed: int, rounds: Rounds, *, count: int = 60, signal: float = 1.0) -> LocalSite:
    """Return a site with patients of its own."""
    return LocalSite(name, SETTINGS, LAYOUT, *patients(count, has, seed, signal=signal), rounds)


def pooled(parts: Sequence[LocalSite], rounds: Rounds) -> LocalSite:
    """Return one site that has the patients of all."""
    scans, sets = [part.scans for part in parts], [part.sets for part in parts]
    shift = np.cumsum([0, *(len(each.modality) for each in scans)]).tolist()
    people = np.cumsum([0, *(len(each.target) for each in sets)]).tolist()
    maps = torch.cat([each.feature_maps[torch.arange(len(each.modality))] for each in scans])
    modality = torch.cat([each.modality for each in scans])
    owner = torch.cat(
        [
            torch.repeat_interleave(torch.arange(len(each.target)), each.groups.starts.diff()) + start
            for each, start in zip(sets, people, strict=False)
        ]
    )
    rows = {
        name: torch.cat([getattr(each, name) + at for each, at in zip(scans, shift, strict=False)]) for name in PARTS
    }
    kept = {
        name: torch.cat([getattr(each, name) + at for each, at in zip(sets, people, strict=False)]) for name in PARTS
    }
    labels, target = (torch.cat([each.target for each in some]) for some in (scans, sets))
    single = Scans(maps, modality, labels, rows["train"], rows["validation"])
    groups = Groups.of(owner, people[-1])
    together = Sets(groups, target, kept["train"], kept["validation"], torch.arange(people[-1]))
    return LocalSite("all", SETTINGS, LAYOUT, single, together, rounds)


def auc_by_modalities(
    found: tuple[Arrays, Arrays], *, seed: int = 99, count: int = 400, signal: float = 1.0
) -> dict[str, float]:
    """Return the AUC on new patients, with both modalities and with each alone."""
    auc = {}
    for has in OWNS:
        scans, sets = patients(count, has, seed, signal=signal)
        auc[has] = float(roc_auc_score(sets.target, predict(LAYOUT, *found, scans, sets)[:, 1]))
    return auc
