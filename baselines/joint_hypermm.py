"""HyperMM asked again with drawn scans in the place of missing ones, its answers averaged over draws.

HyperMM is trained as it always is, from the scans that there are. Only its questions change: is there anything to gain
from imputing for a method that does not need to?

Source: Rubin 1987, "Multiple imputation for nonresponse in surveys".
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baselines.hypermm import FittedHyperMM, Variant, fit_hypermm
from baselines.joint import ANSWER_DRAWS, JointFiller, joint_filler, spread_over_draws
from baselines.sample import Sample
from models.hypermm import extract, predict_sets
from models.sets import Groups
from models.settings import CHUNK, Training


@dataclass
class DrawnHyperMM:
    """HyperMM and the joint model that draws what it lacks.

    Attributes:
        filler: the joint model.
        hypermm: φ and ρ.
        seed: of the draws.
        notes: what could not be learnt.
        parameters: trained numbers, those of HyperMM.
        facts: for the record, as `baselines.joint.DrawnCNN`.
    """

    filler: JointFiller
    hypermm: FittedHyperMM
    seed: int
    notes: tuple[str, ...]
    parameters: int
    facts: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, sample: Sample) -> Tensor:
        """Return (B, K), float64; HyperMM's own answer where nothing that can be drawn is missing."""
        out = self.hypermm.probabilities(sample)
        mask, drawable = sample.modality_mask, self.filler.drawable(sample.modalities) & self.hypermm.learnt.cpu()
        answered = out.isfinite().all(1)
        gap = (answered & (~mask & drawable.to(mask.device)).any(1)).nonzero().squeeze(1)
        if len(gap) == 0:
            return out
        scans = (torch.isin(sample.observation, gap) & self.hypermm.learnt[sample.modality]).nonzero().squeeze(1)
        own = self._phi(sample.feature_maps[scans], sample.modality[scans])
        place = torch.full((len(sample.target),), -1, device=mask.device)
        place[gap] = torch.arange(len(gap), device=mask.device)
        lacking = (~mask[gap] & drawable.to(mask.device)).nonzero()  # (rows in gap, modality)
        owner = torch.cat([place[sample.observation[scans]], lacking[:, 0]])
        groups = Groups.of(owner, len(gap))
        grid, random = sample.grid()[gap], np.random.default_rng([self.seed, 5])
        answers = []
        for _ in range(ANSWER_DRAWS):
            (filled,) = self.filler.draws(grid, mask[gap], gap, 1, random)
            made = self._phi(filled[lacking[:, 0], lacking[:, 1]], lacking[:, 1])
            answers.append(predict_sets(self.hypermm.classifier, torch.cat([own, made]), groups))
        stacked = torch.stack(answers)  # (S, n, K)
        out[gap] = stacked.mean(0).to(out)
        self.facts |= spread_over_draws(stacked)
        return out

    def _phi(self, feature_maps: Tensor, modality: Tensor) -> Tensor:
        """Return φ of some feature maps, (n, C·H·W)."""
        parts = ((feature_maps[items], modality[items]) for items in torch.arange(len(modality)).split(CHUNK))
        return torch.cat(list(extract(self.hypermm.extractor, parts, feature_maps.device)))


def fit_joint_hypermm(sample: Sample, training: Training, variant: Variant | None = None) -> DrawnHyperMM:
    """Train HyperMM as ever, and fit the joint model to the same training observations.

    Args:
        sample: as the backbone gave it.
        training: of both steps of HyperMM; its seed is that of the joint model.
        variant: of HyperMM; None is the project's own.

    Raises:
        CannotFit: as `fit_hypermm`, or no modality can be learnt by the joint model.
    """
    hypermm = fit_hypermm(sample, training, variant)
    filler = joint_filler(sample, training)
    return DrawnHyperMM(filler, hypermm, training.seed, (*hypermm.notes, *filler.notes), hypermm.parameters)
