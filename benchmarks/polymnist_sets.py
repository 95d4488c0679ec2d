"""HyperMM as a classifier of sets of PolyMNIST pictures: the digit from any of the five modalities.

Feature maps are made by random filters, frozen as VGG is in the product and the same for every modality.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.polymnist import CLASSES, MODALITIES, Split
from benchmarks.polymnist_networks import AT_ONCE
from models.extractor import UniversalExtractor
from models.hypermm import (
    Scans,
    Sets,
    extract,
    fit_classifier,
    fit_extractor,
    new_classifier,
    new_extractor,
    predict_sets,
)
from models.set_classifier import SetClassifier
from models.sets import Groups
from models.settings import StepOne, StepTwo, Training

DROPOUT = 0.5  # of modalities in step 2
FILTERS, SEED = 16, 0


@torch.inference_mode()
def feature_maps(split: Split, count: int) -> Tensor:
    """Return the feature maps of the first tuples, (count · M, 2 · FILTERS, 7, 7); those of a tuple follow each other.

    Random filters of a seed, the same for all modalities; what each finds and its opposite, the largest of 4 × 4.
    """
    filters = torch.randn(FILTERS, 3, 5, 5, generator=torch.Generator().manual_seed(SEED))
    filters = filters - filters.mean((1, 2, 3), keepdim=True)
    filters = filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
    parts = []
    for pictures in split.pictures[:count].flatten(0, 1).split(AT_ONCE):
        found = F.conv2d(pictures.float() / 255, filters, padding=2)
        parts.append(F.max_pool2d(torch.cat([found, -found], dim=1).relu(), 4))
    return torch.cat(parts)


def fit_sets(
    splits: dict[str, Split], *, tuples: int, epochs: int, seed: int = 0
) -> tuple[UniversalExtractor, SetClassifier]:
    """Train φ on single pictures, then ρ on sets, with the product's own losses.

    Args:
        splits: of the tuples.
        tuples: of training that are learnt from.
        epochs: of either step at most.
        seed: of weights and order.
    """
    stop = min(len(splits["validation"]), max(100, tuples // 10))
    maps = torch.cat([feature_maps(splits["train"], tuples), feature_maps(splits["validation"], stop)])
    labels = torch.cat([splits["train"].labels[:tuples], splits["validation"].labels[:stop]])
    count, shape = len(MODALITIES), (int(maps.shape[1]), int(maps.shape[2]), int(maps.shape[3]))
    modality = torch.arange(count).repeat(len(labels))
    owner = torch.arange(len(labels)).repeat_interleave(count)
    train, validation = torch.arange(len(maps)).split([tuples * count, stop * count])
    training = Training(epochs, 64, 3e-4, weight_decay=0.0, patience=3, seed=seed)
    step = StepOne()
    network = new_extractor(step, modalities=count, feature_map_shape=shape, classes=CLASSES, seed=seed)
    fit_extractor(network, Scans(maps, modality, labels[owner], train, validation), step, training)
    chunks = zip(maps.split(AT_ONCE), modality.split(AT_ONCE), strict=True)
    phi = torch.cat(list(extract(network.extractor, chunks, "cpu"))).clone()
    second = StepTwo(fit="epochs", modality_dropout=DROPOUT, batch_size=64)
    classifier = new_classifier(second, feature_map_shape=shape, classes=CLASSES, seed=seed)
    sets = Sets(
        Groups.of(owner, len(labels)), labels, torch.arange(tuples), torch.arange(tuples, len(labels)),
        torch.arange(len(labels)),
    )  # fmt: skip
    training = Training(3 * epochs, 64, 3e-4, weight_decay=0.0, patience=5, seed=seed)
    fit_classifier(classifier, phi, sets, second, training)
    return network.extractor, classifier


def accuracy_by_number(extractor: UniversalExtractor, classifier: SetClassifier, test: Split) -> dict[int, float]:
    """Return number of modalities → accuracy over test tuples and all subsets of that size."""
    count, n = len(MODALITIES), len(test)
    maps = feature_maps(test, n)
    modality = torch.arange(count).repeat(n)
    chunks = zip(maps.split(AT_ONCE), modality.split(AT_ONCE), strict=True)
    phi = torch.cat(list(extract(extractor, chunks, "cpu"))).view(n, count, -1)
    found = {}
    for size in range(1, count + 1):
        right = []
        for given in itertools.combinations(range(count), size):
            items = phi[:, list(given)].flatten(0, 1)
            groups = Groups.of(torch.arange(n).repeat_interleave(size), n)
            right.append(float((predict_sets(classifier, items, groups).argmax(1) == test.labels).float().mean()))
        found[size] = float(np.mean(right))
    return found
