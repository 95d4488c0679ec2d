"""HyperMM: the losses of both steps, φ of many scans, and the prediction of sets.

The stages pretrain and classify, the comparison, the export and the predictor all call this; losses and predictions
of sets are defined nowhere else. Scans are held as "rows": anything that gives tensors by index, a tensor
itself or a buffer that reads them from a file.

Source: HyperMM (Chaptoukaev et al. 2024), sections 2.2 (step 1) and 2.3 (step 2, equations 1 and 2).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.extractor import PretrainNetwork, UniversalExtractor
from models.fit import History, Loss, OnEpoch, fit, ignore
from models.penalised import Choice, fit_penalised
from models.set_classifier import SetClassifier, drop_members
from models.sets import Groups, Rows
from models.settings import CHUNK, StepOne, StepTwo, Training

DROPOUT_STREAM = 7919  # added to a seed, so that modality dropout does not repeat the draws of the order of sets


class NotFiniteError(ArithmeticError):
    """The model gives logits that are not finite numbers, which would become confident predictions.

    Attributes:
        sets: the sets that it gives them for.
    """

    def __init__(self, sets: list[int]) -> None:
        super().__init__(f"the model gives no finite numbers for {len(sets)} sets of scans")
        self.sets = sets


@dataclass(frozen=True)
class Scans:
    """Single scans, as step 1 sees them; N of them.

    Attributes:
        feature_maps: z, rows (C, H, W), float32.
        modality: (N,), int64 in [0, M).
        target: class of each scan's observation, (N,), int64 in [0, K).
        train: scans to learn from, (T,), int64.
        validation: scans that decide when to stop, (V,), int64; those of a modality that no training scan has are left
            out, since φ learns no layer for it.
    """

    feature_maps: Rows
    modality: Tensor
    target: Tensor
    train: Tensor
    validation: Tensor

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield feature maps and modality of the training scans."""
        for items in self.train.split(CHUNK):
            yield self.feature_maps[items], self.modality[items]

    def stopping(self) -> Tensor:
        """Return the validation scans whose modality has a training scan."""
        return self.validation[torch.isin(self.modality[self.validation], self.modality[self.train])]


@dataclass(frozen=True)
class Sets:
    """Sets of scans, as step 2 sees them; B of them.

    Attributes:
        groups: which scans each has, at least one for those in `train` and `validation`.
        target: class of each set, (B,), int64 in [0, K).
        train: sets to learn from, (T,), int64.
        validation: sets that decide when to stop, (V,), int64; a ρ fitted by folds does not look at them.
        subject: of each set, (B,), int64; a subject may have several.
    """

    groups: Groups
    target: Tensor
    train: Tensor
    validation: Tensor
    subject: Tensor


def new_extractor(
    step: StepOne, *, modalities: int, feature_map_shape: tuple[int, int, int], classes: int, seed: int
) -> PretrainNetwork:
    """Return an untrained φ with the two heads of step 1, on the CPU."""
    torch.manual_seed(seed)
    extractor = UniversalExtractor(
        modalities, feature_map_shape, embedding=step.embedding, hidden=step.hidden, initialisation=step.initialisation
    )
    return PretrainNetwork(extractor, classes)


def fit_extractor(
    network: PretrainNetwork,
    scans: Scans,
    step: StepOne,
    training: Training,
    *,
    balance_classes: bool = False,
    on_epoch: OnEpoch = ignore,
) -> History:
    """Train φ in place on single scans: MSE(z, dec(φ)) + CE(y, cls(φ)); the epoch that is best by `step.stop_on` stays.

    Args:
        network: of `new_extractor`, on the device of the scans.
        scans: training and validation scans.
        step: losses, scale of the feature maps, and what chooses the epoch.
        training: of the fit loop.
        balance_classes: weight classes by the inverse of their frequency among the training scans.
        on_epoch: called with each finished row of the history.

    Raises:
        ValueError: no training scan.
        FloatingPointError: the loss is no longer a finite number.
    """
    network.extractor.fit_normalisation(scans.batches, step.feature_scale)
    weights = class_weights(scans.target[scans.train], network.classes) if balance_classes else None
    loss = scan_loss(network, scans, step, weights)
    stop_on = "ce" if step.stop_on == "classification" and step.losses != "reconstruction" else "loss"
    validation = scans.stopping()
    return fit(
        network, loss, train=scans.train, validation=validation, training=training, stop_on=stop_on, on_epoch=on_epoch
    )


def scan_loss(network: PretrainNetwork, scans: Scans, step: StepOne, weights: Tensor | None = None) -> Loss:
    """Return the loss of step 1 for `models.fit.fit`; weights of classes (K,) if they are not to count alike."""
    excluded = {"both": "", "classification": "mse", "reconstruction": "ce"}[step.losses]

    def loss(items: Tensor, learning: bool) -> dict[str, Tensor]:
        z, reconstruction, logits = network(scans.feature_maps[items], scans.modality[items])
        losses = {
            "mse": F.mse_loss(reconstruction, z),
            "ce": weighted_cross_entropy(logits, scans.target[items], weights),
        }
        return {name: value for name, value in losses.items() if name != excluded}

    return loss


def new_classifier(step: StepTwo, *, feature_map_shape: tuple[int, int, int], classes: int, seed: int) -> SetClassifier:
    """Return an untrained ρ, on the CPU."""
    torch.manual_seed(seed)
    return SetClassifier(math.prod(feature_map_shape), classes, hidden=step.hidden, dropout=step.dropout, how=step.how)


def fit_classifier(
    classifier: SetClassifier,
    phi: Rows,
    sets: Sets,
    step: StepTwo,
    training: Training,
    *,
    balance_classes: bool = False,
    on_epoch: OnEpoch = ignore,
) -> History | Choice:
    """Train ρ in place on sets, φ frozen: CE(y, ρ(aggregate_k φ(x_k, m_k))).

    By folds: with a penalty (`models.penalised`). By epochs: the best validation epoch stays.

    Args:
        classifier: of `new_classifier`, on the device of `phi`.
        phi: of every scan, rows (C·H·W), float32.
        sets: training and validation sets.
        step: how it is fitted, and modality dropout.
        training: of the fit loop; its batch size counts, not that of `step`. By folds only its seed.
        balance_classes: as `fit_extractor`, among the training sets.
        on_epoch: the same.

    Raises:
        ValueError: no training set; or by folds, and ρ is not linear.
        FloatingPointError: the loss is no longer a finite number.
    """
    weights = class_weights(sets.target[sets.train], classifier.classes) if balance_classes else None
    if step.fit == "folds":
        return fit_penalised(
            classifier,
            phi,
            sets.groups.of_sets(sets.train),
            sets.target[sets.train],
            subject=sets.subject[sets.train],
            seed=training.seed,
            class_weights=weights,
        )
    loss = set_loss(lambda scans, owner, count: classifier(phi[scans], owner, count), sets, step, training, weights)
    return fit(classifier, loss, train=sets.train, validation=sets.validation, training=training, on_epoch=on_epoch)


def fit_together(
    extractor: UniversalExtractor,
    classifier: SetClassifier,
    feature_maps: Rows,
    modality: Tensor,
    sets: Sets,
    step: StepTwo,
    training: Training,
) -> History:
    """Train φ and ρ together on sets, as `fit_classifier`: "w/o 2 steps" of the paper, or φ fine-tuned in step 2."""
    both = nn.ModuleDict({"extractor": extractor, "classifier": classifier})
    loss = set_loss(
        lambda scans, owner, count: classifier(
            extractor(feature_maps[scans], modality[scans]).flatten(1), owner, count
        ),
        sets, step, training, None,
    )  # fmt: skip
    return fit(both, loss, train=sets.train, validation=sets.validation, training=training)


SetLogits = Callable[[Tensor, Tensor, int], Tensor]  # (scans (n,), the set of each (n,), number of sets B) → (B, K)


def set_loss(logits_of: SetLogits, sets: Sets, step: StepTwo, training: Training, weights: Tensor | None) -> Loss:
    """Return the loss of step 2 for `models.fit.fit`, with modality dropout; weights of classes (K,) or None."""
    draws = torch.Generator().manual_seed(training.seed + DROPOUT_STREAM)

    def loss(items: Tensor, learning: bool) -> dict[str, Tensor]:
        scans, owner = sets.groups.batch(items)
        if learning and step.modality_dropout:
            stay = drop_members(owner, step.modality_dropout, draws)
            scans, owner = scans[stay], owner[stay]
        return {"ce": weighted_cross_entropy(logits_of(scans, owner, len(items)), sets.target[items], weights)}

    return loss


@torch.no_grad()
def extract(
    extractor: UniversalExtractor, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str
) -> Iterator[Tensor]:
    """Yield φ of many scans, batch by batch.

    Args:
        extractor: φ, on the device.
        batches: feature maps (n, C, H, W), float32, and their modality (n,), int64.
        device: where to compute.

    Yields:
        (n, C·H·W), float32, on the device.
    """
    extractor.eval()
    for feature_maps, modality in batches:
        yield extractor(feature_maps.to(device), modality.to(device)).flatten(1)


@torch.inference_mode()
def predict_sets(classifier: SetClassifier, phi: Rows, sets: Groups) -> Tensor:
    """Return the class probabilities of sets of scans, softmax(ρ(aggregate_k φ_k)).

    Args:
        classifier: ρ.
        phi: of the scans, rows (C·H·W), float32, on the device of the classifier.
        sets: which scans each of the B sets has, at least one each; on the CPU or on that device.

    Returns:
        (B, K), float64, on the CPU.

    Raises:
        NotFiniteError: a logit is not finite.
    """
    classifier.eval()
    count = len(sets.starts) - 1
    logits_of_chunks: list[Tensor] = []
    for some in torch.arange(count, device=sets.starts.device).split(CHUNK):
        scans, owner = sets.batch(some)
        features = phi[scans]
        logits_of_chunks.append(classifier(features, owner.to(features.device), len(some)).cpu().double())
    logits = (
        torch.cat(logits_of_chunks) if logits_of_chunks else torch.zeros(0, classifier.classes, dtype=torch.float64)
    )
    if wrong := (~logits.isfinite().all(1)).nonzero().flatten().tolist():
        raise NotFiniteError(wrong)
    return logits.softmax(1)


def load_extractor(
    state: dict[str, Tensor], *, modalities: int, feature_map_shape: tuple[int, int, int]
) -> UniversalExtractor:
    """Return φ with its weights, in eval mode on the CPU; the widths of its hypernetwork are those of the weights."""
    hidden, embedding = state["hypernetwork.hidden.weight"].shape
    extractor = UniversalExtractor(modalities, feature_map_shape, embedding=embedding, hidden=hidden)
    extractor.load_state_dict(state)
    return extractor.eval()


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean of w[y]·CE over a batch; torch divides by the batch's own weights, so a batch of 1 has none."""
    if weights is None:
        return F.cross_entropy(logits, target)
    return (weights[target] * F.cross_entropy(logits, target, reduction="none")).mean()


def class_weights(target: Tensor, classes: int) -> Tensor:
    """Return weights (K,) that make every class count alike: N / (K · n_k); 0 for an absent class."""
    counts = torch.bincount(target, minlength=classes).float()
    return torch.where(counts > 0, len(target) / (classes * counts.clamp_min(1)), torch.zeros_like(counts))
