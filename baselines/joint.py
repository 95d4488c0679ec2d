"""The joint model as an imputer: gaps filled with its mean, or with its draws, then Multi-CNN.

The model is learnt from training observations of real patients and their classes, one session of each patient; classes
are never used to fill a gap, since a classifier would read them there. Training observations are filled by models that
were learnt without their patient, so that what fills their gaps is as good as it will be for new ones.

Source: Rubin 1987, "Multiple imputation for nonresponse in surveys" (answers averaged over draws).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.cnn import MultiCNN, class_probabilities, count_parameters, require_two_classes, train_multi_cnn
from baselines.imputers import ConstantFiller, ImputedCNN, fit_imputed, impute_mean
from baselines.sample import CannotFit, Sample
from models.joint.blocks import FloatArray
from models.joint.gaussian import JointGaussian, TooFewPatientsError, condition
from models.joint.model import CannotJoinError, JointConfig, JointModel, Patients, fit_model
from models.joint.posterior import draw, fit
from models.joint.sessions import one_session_each
from models.joint.sums import subtract, sums_of
from models.settings import Training

FOLDS = 5  # training observations are filled by models without their fold
PARAMETER_DRAWS = 20  # of each of those models
TRAINING_DRAWS, ANSWER_DRAWS = 5, 20  # of the gaps


@dataclass
class JointFiller:
    """Fills gaps with the mean of the joint model, given what is there.

    Attributes:
        model: learnt from training observations, one of each patient.
        without: models of the same scores without one fold each.
        fold: observation → fold, of training observations.
        rows: observation → scores that the model was learnt from; not of other sessions.
        mean: filler of modalities that the model could not learn.
        mask: as in `Filler`.
        notes: as in `Filler`.
    """

    model: JointModel
    without: tuple[JointGaussian, ...]
    fold: dict[int, int]
    rows: dict[int, FloatArray]
    mean: ConstantFiller
    mask: bool = False
    notes: tuple[str, ...] = ()

    def fill(self, grid: Tensor, modality_mask: Tensor, observations: Tensor) -> Tensor:
        """Fill missing feature maps, as `Filler.fill`."""
        scores = np.zeros((len(grid), self.model.blocks.width))
        for members, gaussian, rows in self._groups(grid, modality_mask, observations):
            scores[members] = condition(gaussian, rows).mean
        filled = self.mean.fill(grid, modality_mask, observations).clone()
        return self._put(filled, modality_mask, scores, None)

    def draws(
        self, grid: Tensor, modality_mask: Tensor, observations: Tensor, count: int, random: np.random.Generator
    ) -> Tensor:
        """Return the grid filled with each of some draws, (count, n, M, C, H, W)."""
        scores = np.zeros((count, len(grid), self.model.blocks.width))
        for members, gaussian, rows in self._groups(grid, modality_mask, observations):
            scores[:, members], _ = draw(gaussian, rows, count, random)
        base = self.mean.fill(grid, modality_mask, observations)
        return torch.stack([self._put(base.clone(), modality_mask, each, random) for each in scores])

    def drawable(self, modalities: int) -> Tensor:
        """Return which modalities the model has learnt, (M,), bool."""
        return torch.tensor([_name(m) in self.model.bases for m in range(modalities)])

    def _groups(
        self, grid: Tensor, modality_mask: Tensor, observations: Tensor
    ) -> list[tuple[NDArray[np.int64], JointGaussian, FloatArray]]:
        """Return the rows that each Gaussian fills, and their scores; only those with a gap."""
        numbers = observations.tolist()
        rows = self.model.scores(patients_of(grid, modality_mask))
        for i, number in enumerate(numbers):
            if number in self.rows:  # of training: as they were learnt from, as far as the scans are given now
                rows[i] = np.where(np.isnan(rows[i]), np.nan, self.rows[number])
        gaps = (~modality_mask).any(1).tolist()
        of = np.array([self.fold.get(number, -1) if gap else -2 for number, gap in zip(numbers, gaps, strict=True)])
        groups = []
        for fold in sorted(set(of.tolist()) - {-2}):
            members = np.flatnonzero(of == fold)
            gaussian = self.model.gaussian if fold < 0 else self.without[fold]
            groups.append((members, gaussian, rows[members]))
        return groups

    def _put(
        self, filled: Tensor, modality_mask: Tensor, scores: FloatArray, random: np.random.Generator | None
    ) -> Tensor:
        """Write the features of scores into the gaps, with residuals if there is a source of chance."""
        for m in range(modality_mask.shape[1]):
            if (basis := self.model.bases.get(_name(m))) is None:
                continue
            gap = (~modality_mask[:, m]).nonzero().squeeze(1)
            if len(gap) == 0:
                continue
            made = basis.features(scores[gap.cpu().numpy()][:, self.model.blocks.slice_of(_name(m))])
            if random is not None:
                made = made + basis.draw_residuals(len(made), random)
            filled[gap, m] = torch.from_numpy(made).to(filled).view(len(gap), *filled.shape[2:])
        return filled


@dataclass
class DrawnCNN:
    """A joint model and the Multi-CNN that was trained on its draws; answers are averaged over draws.

    Attributes:
        filler: the joint model.
        network: the Multi-CNN.
        parameters: trained numbers of the network.
        seed: of the draws.
        notes: what could not be learnt.
        facts: for the record: how many draws, and the standard deviation of probabilities over draws (between), and of
            a class given them (within), over observations with a gap, root mean squares.
    """

    filler: JointFiller
    network: MultiCNN
    parameters: int
    seed: int
    notes: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN only for an observation without any scan."""
        modality_mask = sample.modality_mask
        there = modality_mask.any(1).nonzero().squeeze(1)
        grid = sample.grid()
        out = torch.full((len(modality_mask), sample.classes), torch.nan, dtype=torch.float64, device=grid.device)
        gap = there[(~modality_mask[there]).any(1)]
        whole = there[modality_mask[there].all(1)]
        if len(whole):
            out[whole] = class_probabilities(self.network, grid[whole], modality_mask[whole])
        random = np.random.default_rng([self.seed, 2])
        answers = []
        for _ in range(ANSWER_DRAWS if len(gap) else 0):  # one at a time: a draw is as large as the sample
            (filled,) = self.filler.draws(grid[gap], modality_mask[gap], gap, 1, random)
            answers.append(class_probabilities(self.network, filled, modality_mask[gap]))
        if answers:
            stacked = torch.stack(answers)  # (S, n, K)
            out[gap] = stacked.mean(0)
            self.facts |= spread_over_draws(stacked)
        return out


def spread_over_draws(answers: Tensor) -> dict[str, Any]:
    """Return facts on answers over draws (S, n, K): the standard deviation between draws, and of a class given them."""
    between, within = answers.var(0).mean(), (answers * (1 - answers)).mean()
    return {
        "draws": len(answers),
        "sd_between_draws": float(between.sqrt()),
        "sd_within_draws": float(within.sqrt()),
    }


def patients_of(grid: Tensor, modality_mask: Tensor) -> Patients:
    """Return observations as the joint model takes them."""
    flat = grid.flatten(2).cpu().numpy().astype(np.float32)
    there = modality_mask.cpu().numpy()
    features = {
        _name(m): np.where(there[:, m, None], flat[:, m], np.float32(np.nan)) for m in range(modality_mask.shape[1])
    }
    return Patients(features, {})


def _name(modality: int) -> str:
    """Return the name of a modality as messages have it; the pipeline puts its real one there."""
    return f"modality {modality}"


def fit_joint_mean(sample: Sample, training: Training) -> ImputedCNN:
    """Fill gaps with the mean of the joint model, then train a Multi-CNN, as `baselines.imputers.fit_imputed`.

    Raises:
        CannotFit: as `fit_imputed`, or no modality can be learnt.
    """
    return fit_imputed(sample, training, lambda grid, modality_mask: joint_filler(sample, training))


def fit_joint_draws(sample: Sample, training: Training) -> DrawnCNN:
    """Train a Multi-CNN on draws of the joint model, another at every step, and average its answers over draws.

    Validation observations are filled with one draw.

    Raises:
        CannotFit: as `fit_joint_mean`.
    """
    grid, modality_mask = sample.grid(), sample.modality_mask
    train, validation = (rows[modality_mask[rows].any(1)] for rows in (sample.train, sample.validation))
    unseen = (~modality_mask[train].any(0)).nonzero().squeeze(1).tolist()
    if unseen:
        raise CannotFit(f"modality {unseen[0]} has no training scan, so it cannot be filled; leave that modality out")
    require_two_classes(sample.target[train], "training observations")
    filler = joint_filler(sample, training)
    random = np.random.default_rng([training.seed, 1])
    (grid[validation],) = filler.draws(grid[validation], modality_mask[validation], validation, 1, random)
    gap = train[(~modality_mask[train]).any(1)]
    drawn = filler.draws(grid[gap], modality_mask[gap], gap, TRAINING_DRAWS, random)
    place = torch.full((len(modality_mask),), -1, device=grid.device)
    place[gap] = torch.arange(len(gap), device=grid.device)
    chosen = torch.Generator().manual_seed(training.seed)

    def redraw(batch: Tensor) -> Tensor:
        rows, lacking = grid[batch], place[batch] >= 0
        which = torch.randint(TRAINING_DRAWS, (len(batch),), generator=chosen).to(batch.device)
        rows[lacking] = drawn[which[lacking], place[batch[lacking]]]
        return rows

    network = train_multi_cnn(
        sample, training, grid=grid, train=train, validation=validation, redraw=redraw if len(gap) else None
    )
    return DrawnCNN(filler, network, count_parameters(network), training.seed, filler.notes)


def joint_filler(sample: Sample, training: Training) -> JointFiller:
    """Return the fitted filler; methods that share the sample share it."""
    return sample.once(("joint model", training.seed), lambda: _fit_filler(sample, training.seed))


def _fit_filler(sample: Sample, seed: int) -> JointFiller:
    """Fit the joint model to real training patients, each once, and one without the patients of each fold.

    Raises:
        CannotFit: no modality can be learnt.
    """
    modality_mask, grid = sample.modality_mask, sample.grid()
    train = sample.train[modality_mask[sample.train].any(1)]
    if sample.synthetic is not None:
        train = train[~sample.synthetic[train]]
    owner = np.arange(len(train))
    if sample.subject is not None:  # sessions of one patient are in one fold
        owner = np.unique(sample.subject[train].cpu().numpy(), return_inverse=True)[1]
    grid, modality_mask = grid[train], modality_mask[train]
    session = train if sample.session is None else sample.session[train]
    once = one_session_each(owner, modality_mask.sum(1).cpu().numpy(), session.cpu().numpy())
    labels = sample.target[train].cpu().numpy()[once]
    channels, height, width = grid.shape[2:]
    config = JointConfig(draws=PARAMETER_DRAWS, seed=seed)
    try:
        model, rows = fit_model(
            patients_of(grid[once], modality_mask[once]),
            labels,
            sample.classes,
            config,
            shape=(channels, height, width),
        )
    except CannotJoinError as error:
        raise CannotFit(str(error)) from error
    random = np.random.default_rng([seed, 3])
    fold = (random.permutation(int(owner.max(initial=-1)) + 1) % FOLDS)[owner]
    without = []
    for held in range(FOLDS):
        left = fold[once] == held
        try:
            others = subtract(model.sums, sums_of(rows[left], labels[left], model.blocks, sample.classes))
            without.append(fit(others, draws=PARAMETER_DRAWS, seed=seed))
        except TooFewPatientsError:  # with so few, a fold cannot be spared
            without.append(model.gaussian)
    numbers = train.tolist()
    learnt = [numbers[i] for i in once.tolist()]
    return JointFiller(
        model, tuple(without), dict(zip(numbers, fold.tolist(), strict=True)), dict(zip(learnt, rows, strict=True)),
        impute_mean(grid, modality_mask), notes=model.notes,
    )  # fmt: skip
