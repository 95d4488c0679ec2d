"""Codes of patients by a φ that was pretrained without labels, and by the same φ before it learnt anything.

Channel means of feature maps go in, one scan a modality; the mean of φ over a patient's scans comes out. What the
pretraining is worth is the difference between the two: the network has the same shape, normalisation and start.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.extractor import UniversalExtractor
from models.joint.basis import NoVariationError, fit_basis
from models.joint.model import Features
from models.masked import MaskedNetwork, MaskedSets, normalise, pretrain_masked
from models.settings import Training

HIDDEN_SCORES = 8  # of a hidden modality, predicted in masked pretraining
Modalities = Mapping[str, Features]  # modality → (n, C) float32, rows of NaN where it is missing


def masked_codes(
    parts: Mapping[str, Modalities],
    training: Training,
    *,
    drawn: Modalities | None = None,
    pretrained: bool = True,
) -> dict[str, Features] | None:
    """Return codes of `train` and `test`, (n, C); None if no set to learn from has two modalities.

    Args:
        parts: train, validation and test patients; test patients are only coded.
        training: of the fit loop; its seed is that of the first weights too.
        drawn: synthetic patients, learnt from beside those of `train`.
        pretrained: False: φ as it begins, with its normalisation alone.
    """
    train, validation = parts["train"], parts["validation"]
    stacked = [train, *([drawn] if drawn is not None else [])]
    sets = _sets(train, stacked, validation, training.seed)
    if sets is None:
        return None
    torch.manual_seed(training.seed)
    _, modalities, width, _, _ = sets.feature_maps.shape
    network = MaskedNetwork(UniversalExtractor(modalities, (width, 1, 1)), modalities, sets.scores.shape[2])
    if pretrained:
        pretrain_masked(network, sets, training)
    else:
        normalise(network, sets)
        network.eval()
    found = {}
    with torch.inference_mode():
        for side in ("train", "test"):
            found[side] = np.asarray(network.codes(_maps(parts[side]), torch.from_numpy(_has(parts[side]))).numpy())
    return found


def _sets(train: Modalities, learnt_from: list[Modalities], validation: Modalities, seed: int) -> MaskedSets | None:
    """Return the sets; the scores to predict are those of a basis of real training scans."""
    bases = {}
    for name, rows in train.items():
        try:
            bases[name] = fit_basis(rows[~np.isnan(rows[:, 0])], most=HIDDEN_SCORES, seed=seed)[0]
        except (NoVariationError, ValueError):  # too few scans to predict anything of
            continue
    everybody = {name: np.concatenate([part[name] for part in (*learnt_from, validation)]) for name in train}
    has = _has(everybody) & np.array([name in bases for name in train])
    held = len(next(iter(validation.values())))
    last = len(has) - held
    if not (has[:last].sum(axis=1) >= 2).any():
        return None
    scores = np.zeros((*has.shape, max(basis.size for basis in bases.values())), dtype=np.float32)
    for m, name in enumerate(train):
        if name in bases:
            scores[has[:, m], m, : bases[name].size] = bases[name].scores(everybody[name][has[:, m]])
    return MaskedSets(
        _maps(everybody), torch.from_numpy(has), torch.from_numpy(scores), torch.arange(last),
        torch.arange(last, len(has)),
    )  # fmt: skip


def _has(patients: Modalities) -> NDArray[np.bool_]:
    return np.stack([~np.isnan(rows[:, 0]) for rows in patients.values()], axis=1)


def _maps(patients: Modalities) -> Tensor:
    """Return (n, M, C, 1, 1) float32, 0 where a scan is missing."""
    stacked = np.nan_to_num(np.stack(list(patients.values()), axis=1))
    return torch.from_numpy(stacked.astype(np.float32))[..., None, None]
