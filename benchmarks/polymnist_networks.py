"""Single modalities of PolyMNIST: judges, which say what digit a picture shows, and bases, which make pictures codes.

Every joint model of the benchmark sees the same codes, principal components as in the product's own joint model, and
its draws become pictures by the same bases. These learn from pictures alone, without labels and without knowing which
belong together.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.decomposition import PCA
from torch import Tensor, nn

from benchmarks.polymnist import CLASSES, MODALITIES, SIDE, Bytes, Split, backgrounds
from models.fit import fit
from models.settings import Training

AT_ONCE = 500  # pictures a pass
RATES = (1e-3, 2e-4)  # of Adam, one after the other
Network = TypeVar("Network", bound=nn.Module)
Values = NDArray[Any]


@dataclass(frozen=True)
class Sizes:
    """Of judges and bases.

    Attributes:
        code: components of a modality.
        basis_pictures: of training, that a basis is learnt from.
        judge_epochs: of each judge, at either of `RATES`; chosen on validation pictures.
        judge_moved: pixels at most that a training digit is moved for a judge.
    """

    code: int = 64
    basis_pictures: int = 6000
    judge_epochs: tuple[tuple[int, int], ...] = ((5, 3), (5, 3), (5, 3), (5, 3), (10, 8))
    judge_moved: int = 1


class Judge(nn.Sequential):
    """From pictures (B, 3, 28, 28) to logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 24, 5, stride=2, padding=2), nn.BatchNorm2d(24), nn.ReLU(),
            nn.Conv2d(24, 48, 5, stride=2, padding=2), nn.BatchNorm2d(48), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2),
            nn.Linear(48 * 49, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, CLASSES),
        )  # fmt: skip

    def features(self, pictures: Tensor) -> Tensor:
        """Return what the last layer decides on, (B, 128)."""
        for layer in list(self)[:-2]:
            pictures = layer(pictures)
        return pictures


def fit_judge(splits: dict[str, Split], modality: int, sizes: Sizes, paper: Bytes) -> Judge:
    """Train the judge of a modality; of each rate the epoch that is best in validation stays.

    A training digit is moved and put on another crop of the background whenever it is seen. Validation pictures stay
    as they are.

    Args:
        splits: of the tuples.
        modality: number of the modality, seed of weights and chance.
        sizes: of the training.
        paper: its background, (height, width, 3).
    """
    train, validation = splits["train"], splits["validation"]
    labels = torch.cat([train.labels, validation.labels])
    items = torch.arange(len(labels)).split([len(train), len(validation)])
    torch.manual_seed(modality)
    random = torch.Generator().manual_seed(modality)
    judge = Judge()

    def loss(items: Tensor, learning: bool) -> dict[str, Tensor]:
        if learning:
            shown = fresh_pictures(train.shapes[items, modality], paper, sizes.judge_moved, random)
        else:
            shown = validation.pictures[items - len(train), modality].float() / 255
        return {"ce": F.cross_entropy(judge(shown), labels[items])}

    for rate, epochs in zip(RATES, sizes.judge_epochs[modality], strict=True):
        training = Training(epochs, 64, rate, weight_decay=0.0, patience=epochs, seed=modality)
        fit(judge, loss, train=items[0], validation=items[1], training=training)
    return judge


def fresh_pictures(shapes: Tensor, paper: Bytes, moved: int, random: torch.Generator) -> Tensor:
    """Move digits a little and put each on a random crop of a background.

    Args:
        shapes: where digits are white, (n, 28, 28), bool.
        paper: the background, (height, width, 3).
        moved: pixels at most along either axis.
        random: source of chance.

    Returns:
        (n, 3, 28, 28), float32 in [0, 1].
    """
    crops = torch.from_numpy(paper.copy()).unfold(0, SIDE, 1).unfold(1, SIDE, 1)
    tops, lefts = (torch.randint(count, (len(shapes),), generator=random) for count in crops.shape[:2])
    windows = F.pad(shapes, (moved,) * 4).unfold(1, SIDE, 1).unfold(2, SIDE, 1)
    down, right = torch.randint(2 * moved + 1, (2, len(shapes)), generator=random)
    white = windows[torch.arange(len(shapes)), down, right]
    shown = crops[tops, lefts].float() / 255
    return torch.where(white[:, None], 1 - shown, shown)


@dataclass(frozen=True)
class Basis:
    """Principal components of the training pictures of a modality.

    Attributes:
        centre: (D,), D = 3 · 28 · 28.
        components: orthonormal rows, (k, D).
        scale: codes are divided by it, so that their mean variance is 1, as in `models.joint.basis`.
    """

    centre: Values
    components: Values
    scale: float

    def codes(self, pictures: Tensor) -> Values:
        """Return the codes of pictures (n, 3, 28, 28), uint8, (n, k)."""
        rows = pictures.flatten(1).float().numpy() / 255 - self.centre
        return np.asarray((rows @ self.components.T).astype(np.float64) / self.scale)

    def pictures(self, codes: Values) -> Tensor:
        """Return the pictures of codes (n, k), (n, 3, 28, 28) float32 in [0, 1]."""
        rows = (codes * self.scale) @ self.components + self.centre
        return torch.from_numpy(rows.astype(np.float32)).clamp(0, 1).view(-1, 3, SIDE, SIDE)


def fit_picture_basis(pictures: Tensor, count: int) -> Basis:
    """Learn a basis of `count` components from training pictures (n, 3, 28, 28), uint8.

    With thousands of pictures their own codes are no better than those of new ones, so they are taken as they are.
    """
    rows = pictures.flatten(1).float().numpy() / 255
    found = PCA(count, svd_solver="randomized", iterated_power=3, random_state=0).fit(rows)
    return Basis(found.mean_, found.components_, float(np.sqrt(found.explained_variance_.mean())))


@dataclass(frozen=True)
class Studio:
    """Bases of all modalities, and judges of those whose pictures are judged, by their number."""

    judges: dict[int, Judge]
    bases: tuple[Basis, ...]

    @property
    def code(self) -> int:
        """Numbers of a code."""
        return len(self.bases[0].components)

    def codes(self, split: Split) -> Values:
        """Return the codes of tuples, (n, M · code)."""
        return np.concatenate([basis.codes(split.pictures[:, m]) for m, basis in enumerate(self.bases)], axis=1)

    @torch.inference_mode()
    def judged(self, codes: Values, modality: int) -> NDArray[np.int64]:
        """Return what digit the judge sees in the pictures of codes (n, code), (n,)."""
        pictures = self.bases[modality].pictures(codes).split(AT_ONCE)
        return torch.cat([self.judges[modality](each).argmax(1) for each in pictures]).numpy()

    @torch.inference_mode()
    def features(self, codes: Values, modality: int) -> Values:
        """Return the judge's features of the pictures of codes (n, code), (n, 128)."""
        pictures = self.bases[modality].pictures(codes).split(AT_ONCE)
        return np.asarray(torch.cat([self.judges[modality].features(each) for each in pictures]).double().numpy())


def studio(splits: dict[str, Split], sizes: Sizes, cache: Path, judged: tuple[int, ...]) -> Studio:
    """Return judges, from the cache where they are there, and bases."""
    judges: dict[int, Judge] = {}
    for m, paper in enumerate(backgrounds()):
        if m in judged:
            settings = {"judge_epochs": list(sizes.judge_epochs[m]), "judge_moved": sizes.judge_moved}
            path = cache / f"judge-{m}.safetensors"
            judges[m] = _cached(path, Judge(), settings, partial(fit_judge, splits, m, sizes, paper))
    learnt = splits["train"].pictures[: sizes.basis_pictures]
    bases = [fit_picture_basis(learnt[:, m], sizes.code) for m in range(len(MODALITIES))]
    return Studio(judges, tuple(bases))


def _cached(path: Path, empty: Network, settings: dict[str, Any], make: Callable[[], Network]) -> Network:
    """Return a network from a file made with these settings, or make it and write the file."""
    told = path.with_suffix(".json")
    if path.is_file() and told.is_file() and json.loads(told.read_text("utf-8")) == settings:
        empty.load_state_dict(load_file(path))
        return empty.eval()
    network = make()
    save_file(network.state_dict(), path)
    told.write_text(json.dumps(settings), "utf-8")
    return network.eval()
