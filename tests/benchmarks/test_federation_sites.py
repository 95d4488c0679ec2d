"""The benchmark of federation over a cohort's sites: its scores, and that a hospital learns from its own scans."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.bench_federation_sites import FEDERATED, Cohort, in_folds, one_left_out, scored
from models.federated_hypermm import Layout, Rounds

PEOPLE = 48
ROUNDS = Rounds(extractor=1, classifier=2, learning_rate=1e-2, classifier_learning_rate=1e-2)


@pytest.fixture
def cohort() -> Cohort:
    """Three hospitals; the second has no PET and the third no MRI."""
    random = np.random.default_rng(0)
    target, site = np.arange(PEOPLE) % 2, np.array(["A", "B", "C"])[np.arange(PEOPLE) // 2 % 3]
    owner, modality = np.repeat(np.arange(PEOPLE), 2), np.tile([0, 1], PEOPLE)
    maps = random.standard_normal((2 * PEOPLE, 4, 2, 2)) + target[owner][:, None, None, None]
    hidden = ((site[owner] == "B") & (modality == 1)) | ((site[owner] == "C") & (modality == 0))
    tensors = (torch.from_numpy(each) for each in (modality, owner, hidden, target))
    subjects = np.array([f"s{i}" for i in range(PEOPLE)])
    return Cohort(
        torch.from_numpy(maps.astype(np.float32)), *tensors, site, subjects, ("MRI", "PET"), Layout(2, 2, (4, 2, 2))
    )


def test_hidden_scans_are_not_learnt_from_and_the_tested_have_theirs(cohort: Cohort) -> None:
    train, tested = np.flatnonzero(cohort.site == "B"), np.flatnonzero(cohort.site == "C")[:4]
    nobody = np.zeros(0, dtype=np.int64)
    scans, sets = cohort.data(train, nobody, tested)
    learnt = scans.modality[scans.train]
    assert len(learnt) == len(train)
    assert set(learnt.tolist()) == {0}
    assert len(scans.modality) == len(train) + 2 * 4  # MRI and PET of those tested
    torch.testing.assert_close(sets.target, cohort.target[np.concatenate([train, tested])])
    alone, _ = cohort.data(train, nobody, tested, has="PET")
    assert alone.modality[-4:].tolist() == [1] * 4
    assert len(alone.modality) == len(train) + 4


def test_the_auc_is_over_pairs_of_the_same_fold() -> None:
    random = np.random.default_rng(1)
    tables = []
    for way, shift in ((FEDERATED, 0.0), ("A alone", 0.0)):
        for fold in (1, 2):
            p = random.random(40) / 2 + (fold == 2) * 0.5  # scores of the folds do not compare
            table = pd.DataFrame({"subject": [f"s{fold}-{i}" for i in range(40)], "truth": np.arange(40) % 2})
            tables.append(table.assign(repeat=fold, way=way, has="all", p_1=p + shift))
    found = scored(pd.concat(tables, ignore_index=True), draws=50)
    folds = [roc_auc_score(table["truth"], table["p_1"]) for table in tables[:2]]
    assert found[f"{FEDERATED}, tested with all: AUC"] == pytest.approx(np.mean(folds))
    low, high = map(float, found[f"{FEDERATED} minus A alone, tested with all"].split("(")[1].rstrip(")").split(" to "))
    assert low < high


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_every_way_predicts_everybody_once(cohort: Cohort, tmp_path: Path) -> None:
    found = in_folds(cohort, ROUNDS, 2, 1, share=4, saved=tmp_path / "predictions.csv")
    counts = found.groupby(["way", "has"])["subject"].nunique()
    assert set(counts) == {PEOPLE}
    assert len(counts) == 6 * 3  # over the sites, in one place twice, three alone; both, MRI, PET
    assert set(one_left_out(cohort, ROUNDS, 0)) >= {
        f"{name} left out, the others over the sites: AUC" for name in "ABC"
    }
