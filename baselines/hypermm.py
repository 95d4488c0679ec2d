"""HyperMM as a row of the comparison: the same networks as the stages pretrain and classify, on a sample.

The variants of the ablation are settings here: how step 1 is trained, whether there is a step 1, what the hypernetwork
starts from, whether φ stays frozen.

Source: HyperMM, sections 2.2 and 2.3; "w/o 2 steps" is the row of that name in table 1.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.cnn import count_parameters, require_two_classes, run_fit
from baselines.sample import Sample, Training
from models.extractor import PretrainNetwork, UniversalExtractor
from models.set_classifier import Aggregate, SetClassifier, drop_members
from models.sets import Groups

BATCH = 256  # scans whose φ is computed at once


@dataclass(frozen=True)
class HyperMMOptions:
    """What makes one variant; the values here are the project's own (docs/decisions/0004, 0005).

    Attributes:
        two_steps: train φ on single scans first; else φ and ρ together from the start.
        losses: of step 1.
        embedding: width of the modality embedding.
        initialisation: of the hypernetwork.
        aggregate: over the scans of a set.
        hidden: widths of ρ's hidden layers.
        modality_dropout: chance that a training scan is left out of its set in step 2.
        fine_tune: go on training φ in step 2.
        rate: learning rate of step 2; None takes that of step 1.
    """

    two_steps: bool = True
    losses: Literal["both", "classification", "reconstruction"] = "both"
    embedding: int = 5
    initialisation: Literal["principled", "default"] = "principled"
    aggregate: Aggregate = "mean"
    hidden: tuple[int, ...] = ()
    modality_dropout: float = 0.0
    fine_tune: bool = False
    rate: float | None = 3e-5


class WholeModel(torch.nn.Module):
    """φ and ρ in one network, so that one optimiser trains both.

    Args:
        extractor: φ.
        classifier: ρ with its aggregate.
    """

    def __init__(self, extractor: UniversalExtractor, classifier: SetClassifier) -> None:
        super().__init__()
        self.extractor = extractor
        self.classifier = classifier

    def forward(self, blocks: Tensor, modality: Tensor, owner: Tensor, count: int) -> Tensor:
        """Logits (count, K) of sets; blocks (N, C, H, W), modality (N,), owner (N,): the set of each scan."""
        return self.classifier(self.extractor(blocks, modality).flatten(1), owner, count)


@dataclass
class FittedHyperMM:
    """A trained φ and ρ.

    Attributes:
        model: both.
        learnt: (M,), bool: modalities that φ was trained on.
        parameters: trained numbers, those of the heads of step 1 not counted.
    """

    model: WholeModel
    learnt: Tensor
    parameters: int

    @torch.inference_mode()
    def probabilities(self, sample: Sample) -> Tensor:
        """(B, K), float64; NaN for an observation without a scan of a modality that φ was trained on."""
        known = self.learnt[sample.modality].nonzero().squeeze(1)
        phi = _features(self.model.extractor, sample.blocks[known], sample.modality[known])
        owner, count = sample.observation[known], len(sample.target)
        filled, place = owner.unique(return_inverse=True)
        logits = self.model.classifier(phi, place, len(filled))
        out = torch.full((count, logits.shape[1]), float("nan"), dtype=torch.float64, device=logits.device)
        out[filled] = logits.double().softmax(1)
        return out


def fit_hypermm(sample: Sample, training: Training, options: HyperMMOptions | None = None) -> FittedHyperMM:
    """Train φ on single scans, then ρ on sets.

    Args:
        sample: standardised, or as the backbone gave it for the published way.
        training: of both steps, but for the rate of the second.
        options: the variant; None is the project's own.

    Raises:
        CannotFit: no training scan, or one class among them.
    """
    options = options or HyperMMOptions()
    require_two_classes(sample.target[sample.train], "HyperMM")
    learnt = torch.zeros(sample.modalities, dtype=torch.bool, device=sample.blocks.device)
    learnt[sample.modality[sample.scans_of(sample.train)]] = True
    torch.manual_seed(training.seed)
    shape = tuple(sample.blocks.shape[1:])
    extractor = UniversalExtractor(
        sample.modalities,
        (shape[0], shape[1], shape[2]),
        embedding=options.embedding,
        initialisation=options.initialisation,
    ).to(sample.blocks.device)
    if options.two_steps:
        _step_one(extractor, sample, training, options, learnt)
    classifier = SetClassifier(
        sample.blocks[0].numel(), sample.classes, hidden=options.hidden, how=options.aggregate
    ).to(sample.blocks.device)
    model = WholeModel(extractor, classifier)
    second = replace(training, learning_rate=options.rate or training.learning_rate)
    _step_two(model, sample, second, options, learnt)
    return FittedHyperMM(model, learnt, count_parameters(model))


def _step_one(
    extractor: UniversalExtractor, sample: Sample, training: Training, options: HyperMMOptions, learnt: Tensor
) -> None:
    network = PretrainNetwork(extractor, sample.classes).to(sample.blocks.device)
    target = sample.target[sample.observation]
    validation = sample.scans_of(sample.validation)

    def loss(items: Tensor, in_training: bool) -> dict[str, Tensor]:
        z, reconstruction, logits = network(sample.blocks[items], sample.modality[items])
        parts = {"mse": F.mse_loss(reconstruction, z), "ce": F.cross_entropy(logits, target[items])}
        dropped = {"both": "", "classification": "mse", "reconstruction": "ce"}[options.losses]
        return {name: value for name, value in parts.items() if name != dropped}

    run_fit(
        network,
        loss,
        train=sample.scans_of(sample.train),
        validation=validation[learnt[sample.modality[validation]]],
        training=training,
        batch_size=training.batch_size,
    )


def _step_two(model: WholeModel, sample: Sample, training: Training, options: HyperMMOptions, learnt: Tensor) -> None:
    known = learnt[sample.modality].nonzero().squeeze(1)
    blocks, modality = sample.blocks[known], sample.modality[known]
    groups = Groups.of(sample.observation[known], len(sample.target))
    frozen = options.two_steps and not options.fine_tune
    phi = _features(model.extractor, blocks, modality) if frozen else None
    draws = torch.Generator().manual_seed(training.seed + 7919)
    has = groups.starts.diff() > 0

    def loss(items: Tensor, in_training: bool) -> dict[str, Tensor]:
        scans, owner = groups.batch(items)
        if in_training and options.modality_dropout:
            stay = drop_members(owner, options.modality_dropout, draws)
            scans, owner = scans[stay], owner[stay]
        if phi is not None:
            logits = model.classifier(phi[scans], owner, len(items))
        else:
            logits = model(blocks[scans], modality[scans], owner, len(items))
        return {"ce": F.cross_entropy(logits, sample.target[items])}

    run_fit(
        model.classifier if frozen else model,
        loss,
        train=sample.train[has[sample.train]],
        validation=sample.validation[has[sample.validation]],
        training=training,
        batch_size=training.batch_size,
    )
    model.eval()


@torch.no_grad()
def _features(extractor: UniversalExtractor, blocks: Tensor, modality: Tensor) -> Tensor:
    """φ of scans, (N, C·H·W)."""
    extractor.eval()
    parts = [extractor(b, m).flatten(1) for b, m in zip(blocks.split(BATCH), modality.split(BATCH), strict=True)]
    return torch.cat(parts) if parts else blocks.flatten(1)
