"""Where the signal is spread thin over many pictures, deciding on the set beats averaging the scores of pictures."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines.cnn import fit_incremental_cnn, fit_uni_cnn
from baselines.hypermm import fit_hypermm
from baselines.sample import Fitted, Sample
from demo.biopsies import MAGNIFICATIONS, BiopsiesConfig, biopsy, make_picture
from evaluation.metrics import score
from models.settings import Training

pytestmark = pytest.mark.usefixtures("one_thread")
TRAINING = Training(epochs=150, batch_size=64, learning_rate=4e-3, patience=15)


def _properties(picture: NDArray[np.uint8]) -> list[float]:
    """What a backbone would see of a picture, in eight numbers: optical density, its spread, dark share, texture."""
    density = -np.log((picture.astype(np.float64) + 1) / 256)
    texture = np.abs(np.diff(density.mean(2), axis=0)).mean()
    return [*density.mean((0, 1)), *density.std((0, 1)), (density[..., 0] > 0.6).mean(), texture]


def _sample(seed: int, subjects: int = 160) -> Sample:
    """Drawn biopsies, half of the patients to train on, 24 to stop by, 56 to test."""
    config = BiopsiesConfig(subjects=subjects, seed=seed, picture_px=64)
    rows = [
        (_properties(make_picture(subject, name, picture, config)), modality, number - 1)
        for number in range(1, subjects + 1)
        for subject in (biopsy(number, config),)
        for modality, name in enumerate(MAGNIFICATIONS)
        for picture in range(1, subject.pictures(name) + 1)
    ]
    feature_maps = torch.tensor([row[0] for row in rows], dtype=torch.float32)
    target = torch.tensor([int(biopsy(n, config).tumour == "malignant") for n in range(1, subjects + 1)])
    train, validation, test = np.split(np.random.default_rng(seed).permutation(subjects), [80, 104])
    observation = torch.tensor([row[2] for row in rows])
    learnt = feature_maps[torch.isin(observation, torch.from_numpy(train))]
    return Sample(
        feature_maps=((feature_maps - learnt.mean(0)) / learnt.std(0))[:, :, None, None],
        modality=torch.tensor([row[1] for row in rows]),
        observation=observation,
        target=target,
        train=torch.from_numpy(np.sort(train)),
        validation=torch.from_numpy(np.sort(validation)),
        test=torch.from_numpy(np.sort(test)),
        modalities=len(MAGNIFICATIONS),
        classes=2,
    ).standardised()


def _auc(fitted: Fitted, sample: Sample) -> float:
    tested = fitted.probabilities(sample)[sample.test]
    there = ~tested.isnan().any(1)
    return score(sample.target[sample.test][there].numpy(), tested[there].numpy())["auc"]


@pytest.mark.slow
def test_the_set_beats_the_mean_of_scores() -> None:
    found = []
    for seed in range(3):
        sample = _sample(seed)
        found.append(
            [
                _auc(fit_hypermm(sample, TRAINING), sample),
                _auc(fit_incremental_cnn(sample, TRAINING), sample),
                *(_auc(fit_uni_cnn(sample, TRAINING, modality=m), sample) for m in range(sample.modalities)),
            ]
        )
    hypermm, *others = np.mean(found, axis=0)
    assert hypermm > 0.85
    assert hypermm > max(others) + 0.05, (hypermm, others)
