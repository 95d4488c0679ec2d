"""`subsets.csv` worked out by hand: from the tables of the cohort, the weights and scikit-learn."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from helpers import toy_run
from sklearn import metrics

from models.hypermm import load_extractor
from pipeline.runner.run import run_stage
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.store.features import FeatureStore
from pipeline.store.fitted import ExtractorSet

pytestmark = pytest.mark.usefixtures("one_thread")
SUBSETS = [s for size in (1, 2, 3) for s in itertools.combinations(toy_run.MODALITIES, size)]
TRAINING = {"epochs": 6, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """A workspace after the stage classify."""
    workspace = tmp_path_factory.mktemp("toy")
    toy_run.fill(workspace, toy_run.scans())
    settings = toy_run.settings(pretrain=TRAINING)
    for stage in (PRETRAIN, CLASSIFY):
        run_stage(stage, settings, workspace, device="cpu")
    return workspace


@pytest.fixture(scope="module")
def by_hand(run: Path) -> pd.DataFrame:
    """One row a repeat, subset and test subject with a scan of it: which scans, truth, probability, complete or not."""
    rows = []
    feature_maps, extractors = FeatureStore(run / "features"), ExtractorSet(run / "pretrain")
    splits = pd.read_csv(run / "split" / "splits.csv")
    of_subject = dict(list(toy_run.scans().groupby("subject")))
    for repeat, subset in itertools.product((1, 2), SUBSETS):
        extractor = load_extractor(extractors.state(repeat), modalities=3, feature_map_shape=(4, 2, 2))
        rho = safetensors.numpy.load_file(run / "classify" / f"repeat-{repeat}" / "weights.safetensors")
        for subject in splits.loc[(splits["repeat"] == repeat) & (splits["split"] == "test"), "subject"]:
            scans = of_subject[subject]
            used = scans[scans["modality"].isin(subset)].sort_values("scan")
            if used.empty:
                continue
            modality = torch.tensor([toy_run.MODALITIES.index(m) for m in used["modality"]])
            phi = extractor(feature_maps.load(list(used["scan"])), modality).detach().flatten(1).numpy().sum(0)
            logits = (rho["rho.0.weight"] @ phi + rho["rho.0.bias"]).astype(np.float64)
            row = {"repeat": repeat, "modalities": "+".join(subset), "subject": subject}
            row |= {"scans_used": ";".join(used["scan"]), "truth": scans["label"].iloc[0]}
            row |= {"complete": len(scans) == 3, "sick": 1 / (1 + np.exp(logits[0] - logits[1]))}
            rows.append(row)
    return pd.DataFrame(rows)


def test_each_subset_is_answered_from_its_own_scans(run: Path, by_hand: pd.DataFrame) -> None:
    ours = pd.read_csv(run / "classify" / "subset_predictions.csv")
    both = ours.merge(by_hand, on=["repeat", "modalities", "subject", "scans_used", "truth", "complete"])
    assert len(both) == len(ours) == len(by_hand)
    np.testing.assert_allclose(both["probability_sick"], both["sick"], rtol=1e-4)
    assert by_hand["sick"].std() > 0.02
    assert set(by_hand["complete"]) == {True, False}


def test_every_figure_is_that_of_scikit_learn(run: Path, by_hand: pd.DataFrame) -> None:
    ours = pd.read_csv(run / "classify" / "subsets.csv", dtype={"threshold": str})
    chosen = json.loads((run / "classify" / "metrics.json").read_text())["thresholds"]
    assert len(ours) == len(SUBSETS) * 2 * 2
    assert set(chosen.values()) != {0.5}
    for row in ours.to_dict("records"):
        rows = by_hand[by_hand["modalities"] == row["modalities"]]
        rows = rows[rows["complete"]] if row["subjects"] == "complete" else rows
        assert row["n"] == len(rows)
        values = []
        for repeat, one in rows.groupby("repeat"):
            truth, score = one["truth"] == "sick", one["sick"]
            decided = score >= (0.5 if row["threshold"] == "0.5" else chosen[str(repeat)])
            values.append(
                {
                    "accuracy": metrics.accuracy_score(truth, decided),
                    "balanced_accuracy": metrics.balanced_accuracy_score(truth, decided),
                    "auc": metrics.roc_auc_score(truth, score),
                    "auc_rounded": metrics.roc_auc_score(truth, decided),
                    "f1": metrics.f1_score(truth, decided),
                    "precision": metrics.precision_score(truth, decided, zero_division=0),
                    "recall": metrics.recall_score(truth, decided),
                    "brier": metrics.brier_score_loss(truth, score),
                }
            )
        told = pd.DataFrame(values)
        assert len(told) == toy_run.REPEATS
        for name in told:
            where = f"{name} of {row['modalities']}, {row['subjects']}, {row['threshold']}"
            assert row[f"{name}_mean"] == pytest.approx(told[name].mean(), abs=2e-6), where
            assert row[f"{name}_std"] == pytest.approx(told[name].std(), abs=2e-6), where
            assert row[f"{name}_low"] <= row[f"{name}_high"], where


def test_complete_rows_are_about_the_same_patients(run: Path) -> None:
    predictions = pd.read_csv(run / "classify" / "subset_predictions.csv").query("complete")
    scans, splits = toy_run.scans().groupby("subject")["modality"].nunique(), pd.read_csv(run / "split" / "splits.csv")
    for (repeat, modalities), rows in predictions.groupby(["repeat", "modalities"]):
        tested = splits.loc[(splits["repeat"] == repeat) & (splits["split"] == "test"), "subject"]
        assert sorted(rows["subject"]) == sorted(set(tested) & set(scans.index[scans == 3])), modalities
    table = pd.read_csv(run / "classify" / "subsets.csv").query("subjects == 'complete'")
    assert table["n"].unique().tolist() == [len(predictions) / len(SUBSETS)]
