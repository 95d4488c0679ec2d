"""CNNs on feature maps: of a single modality, of all modalities at once, or trained modality after modality.

Each is a 1×1 convolution on z and the classifier of step 1, so that a comparison with HyperMM is about how modalities
are put together and not about the size of the networks.

Source: HyperMM, sections 3.1 and 3.2, figure 2 (Uni-CNN, Multi-CNN; CNN 40× to 400×, Incremental-CNN).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.sample import CannotFit, Fitted, Sample
from models.fit import History, Loss, fit
from models.settings import Training

BATCH = 64  # feature maps a pass in prediction


class UniCNN(nn.Module):
    """A 1×1 convolution and a classifier, for single scans.

    Args:
        feature_map_shape: (C, H, W).
        classes: K.
        hidden: width of the classifier's hidden layer, as in step 1.
    """

    def __init__(self, feature_map_shape: tuple[int, int, int], classes: int, *, hidden: int = 512) -> None:
        super().__init__()
        channels, height, width = feature_map_shape
        self.convolution = nn.Conv2d(channels, channels, 1)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, feature_maps: Tensor) -> Tensor:
        """Return logits (N, K) of feature maps (N, C, H, W)."""
        return self.classifier(self.convolution(feature_maps))


class MultiCNN(nn.Module):
    """A 1×1 convolution for every modality; their outputs are concatenated and classified.

    Args:
        feature_map_shape: (C, H, W).
        modalities: M.
        classes: K.
        hidden: width of the classifier's hidden layer, as in step 1.
        mask: tell the classifier which feature maps are real, in M more features.
    """

    def __init__(
        self,
        feature_map_shape: tuple[int, int, int],
        modalities: int,
        classes: int,
        *,
        hidden: int = 512,
        mask: bool = False,
    ) -> None:
        super().__init__()
        channels, height, width = feature_map_shape
        self.mask = mask
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(modalities))
        features = modalities * channels * height * width + (modalities if mask else 0)
        self.classifier = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, feature_maps: Tensor, modality_mask: Tensor) -> Tensor:
        """Return the logits of observations.

        Args:
            feature_maps: (B, M, C, H, W), no gaps.
            modality_mask: (B, M), bool: which of them are real. Used only with `mask`.

        Returns:
            (B, K).
        """
        maps = [convolve(z) for convolve, z in zip(self.convolutions, feature_maps.unbind(1), strict=True)]
        features = torch.cat(maps, 1).flatten(1)  # (B, M·C·H·W)
        if self.mask:
            features = torch.cat([features, modality_mask.to(features.dtype)], 1)  # (B, M·C·H·W + M)
        return self.classifier(features)


@dataclass
class ScanScores:
    """A network for single scans; an observation's score is the mean of the probabilities over its scans.

    Attributes:
        network: from feature maps (N, C, H, W) to logits (N, K).
        modalities: whose scans it takes.
        parameters: trained numbers.
    """

    network: nn.Module
    modalities: tuple[int, ...]
    parameters: int

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN for an observation without a scan of these modalities."""
        taken = torch.isin(sample.modality, torch.tensor(self.modalities, device=sample.modality.device))
        scores = class_probabilities(self.network, sample.feature_maps[taken])
        count = len(sample.target)
        total = scores.new_zeros(count, scores.shape[1]).index_add_(0, sample.observation[taken], scores)
        return total / torch.bincount(sample.observation[taken], minlength=count).unsqueeze(1)  # 0 / 0 is NaN


@dataclass
class LateFusion:
    """Classifiers of single modalities; an observation's score is the mean over the modalities it has.

    Attributes:
        members: one a modality.
        parameters: trained numbers of all members.
    """

    members: tuple[Fitted, ...]
    parameters: int

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN for an observation without a scan of these modalities."""
        return torch.stack([member.probabilities(sample) for member in self.members]).nanmean(0)


@dataclass
class CompleteOnly:
    """A Multi-CNN that takes complete observations.

    Attributes:
        network: the Multi-CNN.
        parameters: trained numbers.
    """

    network: MultiCNN
    parameters: int

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities, (B, K), float64; NaN for an observation that lacks a modality."""
        modality_mask, grid = sample.modality_mask, sample.grid()
        complete = modality_mask.all(1)
        out = torch.full((len(modality_mask), sample.classes), torch.nan, dtype=torch.float64, device=grid.device)
        out[complete] = class_probabilities(self.network, grid[complete], modality_mask[complete])
        return out


def fit_uni_cnn(sample: Sample, training: Training, *, modality: int) -> ScanScores:
    """Fit the Uni-CNN of the paper (also CNN 40× to 400×): cross-entropy on single scans of one modality.

    Raises:
        CannotFit: no training scan of that modality, or of one class only, or the loss diverged.
    """
    labels = sample.target[sample.observation]
    train, validation = (
        scans[sample.modality[scans] == modality]
        for scans in (sample.scans_of(sample.train), sample.scans_of(sample.validation))
    )
    if len(train) == 0:
        raise CannotFit(f"modality {modality} has no training scan; leave it out")
    require_two_classes(labels[train], f"training scans of modality {modality}")

    def trained() -> UniCNN:
        network = _uni_cnn(sample, training)

        def loss(batch: Tensor, learning: bool) -> dict[str, Tensor]:
            return {"ce": F.cross_entropy(network(sample.feature_maps[batch]), labels[batch])}

        run_fit(network, loss, train=train, validation=validation, training=training)
        return network

    network = sample.once(("Uni-CNN", modality, training), trained)
    return ScanScores(network, (modality,), count_parameters(network))


def fit_late_fusion(sample: Sample, training: Training) -> LateFusion:
    """Fit one Uni-CNN per modality where possible; the probabilities of the modalities present are averaged.

    Raises:
        CannotFit: no modality can be fitted.
    """
    members: list[ScanScores] = []
    reasons: list[str] = []
    for modality in range(sample.modalities):
        try:
            members.append(fit_uni_cnn(sample, training, modality=modality))
        except CannotFit as reason:
            reasons.append(str(reason))
    if not members:
        raise CannotFit("no modality can be fitted: " + "; ".join(reasons))
    return LateFusion(tuple(members), sum(member.parameters for member in members))


def fit_multi_cnn(sample: Sample, training: Training) -> CompleteOnly:
    """Fit the Multi-CNN of the paper on the complete training observations alone.

    Several scans of one modality are averaged first (`Sample.grid`); the paper has one of each.

    Raises:
        CannotFit: no training observation is complete, or those that are have one class, or the loss diverged.
    """
    complete = sample.modality_mask.all(1)
    train, validation = sample.train[complete[sample.train]], sample.validation[complete[sample.validation]]
    if len(train) == 0:
        raise CannotFit(
            f"none of {len(sample.train)} training observations has all {sample.modalities} modalities, "
            "and Multi-CNN learns from complete ones only; use one that fills gaps"
        )
    require_two_classes(sample.target[train], "complete training observations")
    network = train_multi_cnn(sample, training, grid=sample.grid(), train=train, validation=validation)
    return CompleteOnly(network, count_parameters(network))


def train_multi_cnn(
    sample: Sample,
    training: Training,
    *,
    grid: Tensor,
    train: Tensor,
    validation: Tensor,
    mask: bool = False,
    redraw: Callable[[Tensor], Tensor] | None = None,
) -> MultiCNN:
    """Train a Multi-CNN on feature maps that are given, real or filled in.

    Where nothing had to be filled in, all methods that fill train the same network on the same feature maps.

    Args:
        sample: gives labels, and which feature maps are real.
        training: settings of the fit loop.
        grid: (B, M, C, H, W), float32, `Sample.grid` but for what was filled in. Rows that are neither in `train` nor
            in `validation` are not read.
        train: (T,) int64, observations to learn from.
        validation: (V,) int64, observations that decide when to stop.
        mask: as in `MultiCNN`.
        redraw: from observations (n,) to their rows of the grid, filled in anew, for each step of learning.

    Raises:
        CannotFit: the loss diverged.
    """
    modality_mask, shape = sample.modality_mask, (grid.shape[2], grid.shape[3], grid.shape[4])

    def trained() -> MultiCNN:
        torch.manual_seed(training.seed)
        network = MultiCNN(shape, sample.modalities, sample.classes, mask=mask).to(grid.device)

        def loss(batch: Tensor, learning: bool) -> dict[str, Tensor]:
            rows = redraw(batch) if redraw is not None and learning else grid[batch]
            return {"ce": F.cross_entropy(network(rows, modality_mask[batch]), sample.target[batch])}

        run_fit(network, loss, train=train, validation=validation, training=training)
        return network

    filled_in = not bool(modality_mask[torch.cat([train, validation])].all())
    key = ("Multi-CNN", mask, training, tuple(train.tolist()), tuple(validation.tolist()))
    return trained() if filled_in else sample.once(key, trained)


def fit_incremental_cnn(sample: Sample, training: Training) -> ScanScores:
    """Fit the Incremental-CNN of the paper: one CNN, trained on modality 0, then 1, 2, … within every epoch.

    The paper says "successive batches of 40×, 100×, 200× then 400×" and not how often. Here every epoch goes through
    all of them in that order, and no batch has two modalities. The fit loop shuffles items, so its items are
    the steps of an epoch, and the loss takes the next batch in order. Where there is no validation scan, the training
    loss that decides is therefore a mean over steps instead of scans.

    Raises:
        CannotFit: no training scan, or of one class only, or the loss diverged.
    """
    labels = sample.target[sample.observation]
    scans, validation = sample.scans_of(sample.train), sample.scans_of(sample.validation)
    if len(scans) == 0:
        raise CannotFit("there is no training scan")
    require_two_classes(labels[scans], "training scans")
    seen = sample.modality[scans].unique()  # sorted
    groups = [scans[sample.modality[scans] == m] for m in seen.tolist()]
    network = _uni_cnn(sample, training)
    batches = ordered_batches(groups, training.batch_size, torch.Generator().manual_seed(training.seed))

    def loss(batch: Tensor, learning: bool) -> dict[str, Tensor]:
        chosen = next(batches) if learning else batch
        return {"ce": F.cross_entropy(network(sample.feature_maps[chosen]), labels[chosen])}

    steps = torch.arange(sum(-(-len(group) // training.batch_size) for group in groups))
    validation = validation[torch.isin(sample.modality[validation], seen)]
    run_fit(network, loss, train=steps, validation=validation, training=replace(training, batch_size=1))
    return ScanScores(network, tuple(seen.tolist()), count_parameters(network))


def ordered_batches(groups: list[Tensor], size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield batches of the first group in random order, then of the second, …, then of the first again, without end."""
    while True:
        for group in groups:
            yield from group[torch.randperm(len(group), generator=generator)].split(size)


def run_fit(network: nn.Module, loss: Loss, *, train: Tensor, validation: Tensor, training: Training) -> History:
    """Call the one fit loop.

    Raises:
        CannotFit: the loss diverged.
    """
    try:
        return fit(network, loss, train=train, validation=validation, training=training)
    except FloatingPointError as error:
        raise CannotFit(str(error)) from error


@torch.inference_mode()
def class_probabilities(network: nn.Module, *inputs: Tensor) -> Tensor:
    """Return the softmax of a network's logits, (n, K), float64, in batches; n may be 0."""
    batches = zip(*(tensor.split(BATCH) for tensor in inputs), strict=True)
    return torch.cat([network(*batch).double().softmax(1) for batch in batches])


def require_two_classes(labels: Tensor, what: str) -> None:
    """Refuse labels of a single class.

    Raises:
        CannotFit: all are of one class.
    """
    classes = labels.unique()
    if len(classes) == 1:
        raise CannotFit(f"all {len(labels)} {what} are of class {int(classes[0])}; two classes are needed")


def count_parameters(network: nn.Module) -> int:
    """Return the number of trained parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def _uni_cnn(sample: Sample, training: Training) -> UniCNN:
    shape = (sample.feature_maps.shape[1], sample.feature_maps.shape[2], sample.feature_maps.shape[3])
    torch.manual_seed(training.seed)
    return UniCNN(shape, sample.classes).to(sample.feature_maps.device)
