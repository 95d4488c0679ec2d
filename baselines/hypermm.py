"""HyperMM as a row of the comparison: `models.hypermm` on a sample, with the defaults of the stages.

The variants of the ablation are settings here: how step 1 is trained, whether there is a step 1, what the hypernetwork
starts from, whether φ stays frozen.

Source: HyperMM, sections 2.2 and 2.3; "w/o 2 steps" is the row of that name in table 1.
"""

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from baselines.cnn import count_parameters, require_two_classes
from baselines.sample import CannotFit, Sample
from models.extractor import UniversalExtractor
from models.fit import History
from models.hypermm import (
    Scans,
    Sets,
    extract,
    fit_classifier,
    fit_extractor,
    fit_together,
    new_classifier,
    new_extractor,
    predict_sets,
)
from models.penalised import Choice
from models.set_classifier import SetClassifier
from models.sets import Groups
from models.settings import CHUNK, StepOne, StepTwo, Training


@dataclass(frozen=True)
class Variant:
    """Settings of one variant; the defaults are the project's own.

    Attributes:
        one: step 1.
        two: step 2.
        two_steps: train φ on single scans first; else φ and ρ together from the start.
        fine_tune: go on training φ in step 2, by epochs whatever `two.fit` is.
        batch_size: of a step 2 by epochs; None is that of step 1.
    """

    one: StepOne = field(default_factory=StepOne)
    two: StepTwo = field(default_factory=StepTwo)
    two_steps: bool = True
    fine_tune: bool = False
    batch_size: int | None = StepTwo.batch_size


@dataclass
class FittedHyperMM:
    """A trained φ and ρ.

    Attributes:
        extractor: φ.
        classifier: ρ with its aggregate.
        learnt: (M,), bool: modalities that φ was trained on.
        parameters: trained numbers, those of the heads of step 1 not counted.
        notes: what was done otherwise than usual in step 2.
    """

    extractor: UniversalExtractor
    classifier: SetClassifier
    learnt: Tensor
    parameters: int
    notes: tuple[str, ...] = ()

    def probabilities(self, sample: Sample) -> Tensor:
        """Return (B, K), float64; NaN for an observation without a scan of a modality that φ was trained on."""
        known = self.learnt[sample.modality].nonzero().squeeze(1)
        filled, owner = sample.observation[known].unique(return_inverse=True)
        out = torch.full((len(sample.target), sample.classes), torch.nan, dtype=torch.float64)
        out[filled.cpu()] = predict_sets(
            self.classifier, _phi(self.extractor, sample, known), Groups.of(owner, len(filled))
        )
        return out.to(sample.feature_maps.device)


def fit_hypermm(sample: Sample, training: Training, variant: Variant | None = None) -> FittedHyperMM:
    """Train φ on single scans, then ρ on sets.

    Args:
        sample: as the backbone gave it; φ learns the scale of the feature maps itself.
        training: of both steps, but for the batch size of the second.
        variant: None is the project's own.

    Raises:
        CannotFit: no training scan, one class among them, or the loss diverged.
    """
    variant = variant or Variant()
    require_two_classes(sample.target[sample.train], "HyperMM")
    try:
        return _fit(sample, training, variant)
    except FloatingPointError as error:
        raise CannotFit(str(error)) from error


def _fit(sample: Sample, training: Training, variant: Variant) -> FittedHyperMM:
    device = sample.feature_maps.device
    shape = sample.feature_maps.shape[1:]
    scans = Scans(
        feature_maps=sample.feature_maps,
        modality=sample.modality,
        target=sample.target[sample.observation],
        train=sample.scans_of(sample.train),
        validation=sample.scans_of(sample.validation),
    )

    def trained() -> UniversalExtractor:
        network = new_extractor(
            variant.one,
            modalities=sample.modalities,
            feature_map_shape=(shape[0], shape[1], shape[2]),
            classes=sample.classes,
            seed=training.seed,
        ).to(device)
        if variant.two_steps:
            fit_extractor(network, scans, variant.one, training)
        else:
            network.extractor.fit_normalisation(scans.batches, variant.one.feature_scale)
        return network.extractor

    extractor = sample.once(("φ", variant.one, training), trained) if variant.two_steps else trained()
    if variant.two_steps and variant.fine_tune:
        extractor = copy.deepcopy(extractor)  # trained on below
    learnt = torch.zeros(sample.modalities, dtype=torch.bool, device=device)
    learnt[sample.modality[scans.train]] = True

    known = learnt[sample.modality].nonzero().squeeze(1)
    groups = Groups.of(sample.observation[known], len(sample.target))
    has = groups.starts.diff() > 0
    sets = Sets(
        groups,
        sample.target,
        sample.train[has[sample.train]],
        sample.validation[has[sample.validation]],
        subject=torch.arange(len(sample.target), device=device) if sample.subject is None else sample.subject,
    )
    second = replace(training, batch_size=variant.batch_size or training.batch_size)
    classifier = new_classifier(
        variant.two, feature_map_shape=(shape[0], shape[1], shape[2]), classes=sample.classes, seed=training.seed
    ).to(device)
    fitted: History | Choice
    if variant.two_steps and not variant.fine_tune:
        fitted = fit_classifier(classifier, _phi(extractor, sample, known), sets, variant.two, second)
    else:
        feature_maps, modality = sample.feature_maps[known], sample.modality[known]
        fitted = fit_together(extractor, classifier, feature_maps, modality, sets, variant.two, second)
    parameters = count_parameters(extractor) + count_parameters(classifier)
    return FittedHyperMM(extractor, classifier, learnt, parameters, tuple(fitted.notes))


def _phi(extractor: UniversalExtractor, sample: Sample, scans: Tensor) -> Tensor:
    """Return φ of some scans, (n, C·H·W)."""
    batches = ((sample.feature_maps[items], sample.modality[items]) for items in scans.split(CHUNK))
    features = list(extract(extractor, batches, sample.feature_maps.device)) if len(scans) else []
    return torch.cat(features) if features else sample.feature_maps[:0].flatten(1)
