"""The pictures are what their table says, and a set of them tells more than the mean of their scores does."""

from __future__ import annotations

import itertools
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from demo.biopsies import (
    MAGNIFICATIONS,
    PROPERTIES,
    BiopsiesConfig,
    Biopsy,
    biopsy,
    biopsy_table,
    draw_section,
    make_picture,
    picture_properties,
    picture_table,
)

SMALL = BiopsiesConfig(subjects=12, picture_px=64, absent=0)
COUNTS = [f"pictures_{name}" for name in MAGNIFICATIONS]


# --- The table ---


def test_half_are_malignant_and_numbers_of_pictures_do_not_tell_who():
    table = biopsy_table(BiopsiesConfig(subjects=60))
    assert list(table["subject"]) == [f"bio-{number:03d}" for number in range(1, 61)]
    assert table["tumour"].value_counts().to_dict() == {"benign": 30, "malignant": 30}
    benign, malignant = (table[table["tumour"] == name][COUNTS].to_numpy() for name in ("benign", "malignant"))
    np.testing.assert_array_equal(benign, malignant)
    assert 5 < (table["tumour"][::2] == "malignant").sum() < 25  # the first of a pair is not always the same


def test_no_subject_depends_on_the_size_of_the_cohort_and_a_row_is_a_biopsy():
    small, large = (biopsy_table(BiopsiesConfig(subjects=n)) for n in (6, 30))
    pd.testing.assert_frame_equal(small, large.head(6))
    assert Biopsy(**large.to_dict("records")[10]) == biopsy(11, BiopsiesConfig())
    assert asdict(biopsy(1, BiopsiesConfig())) != asdict(biopsy(1, BiopsiesConfig(seed=1)))


@pytest.mark.parametrize("absent", [0, 0.3, 0.9])
def test_magnifications_are_absent_as_often_as_asked_and_nobody_is_without_a_picture(absent: float):
    counts = biopsy_table(BiopsiesConfig(subjects=1000, absent=absent))[COUNTS].to_numpy()
    assert set(counts[counts > 0]) == set(range(3, 10))
    assert (counts.sum(1) > 0).all()
    expected = absent - absent**4 / 4  # one of the four stays where all would go
    assert np.mean(counts == 0) == pytest.approx(expected, abs=0.04)


def test_the_manifest_has_a_row_for_every_picture():
    config = BiopsiesConfig(subjects=20, absent=0.3)
    pictures, subjects = picture_table(config), biopsy_table(config).set_index("subject")
    assert list(pictures.columns) == ["subject", "modality", "path", "tumour", "picture", *PROPERTIES]
    assert pictures["path"].is_unique
    assert pictures["path"].iloc[0] == f"bio-001_{pictures['modality'].iloc[0]}_01.png"
    for modality in MAGNIFICATIONS:
        counts = pictures[pictures["modality"] == modality].groupby("subject").size().reindex(subjects.index)
        np.testing.assert_array_equal(counts.fillna(0), subjects[f"pictures_{modality}"])
    assert (pictures["tumour"] == pictures["subject"].map(subjects["tumour"])).all()


def test_a_tumour_moves_one_property_at_each_magnification_and_leaves_the_patient_elsewhere():
    config = BiopsiesConfig(subjects=400, picture_spread=0, absent=0, effect=1.0)
    table = picture_table(config).merge(biopsy_table(config)[["subject", *PROPERTIES]], on="subject")
    side = np.where(table["tumour"] == "malignant", 0.5, -0.5)
    for level, modality in enumerate(MAGNIFICATIONS):
        here = table["modality"] == modality
        for index, name in enumerate(PROPERTIES):
            added = (table[f"{name}_x"] - table[f"{name}_y"])[here]
            expected = side[here] if index == level else np.zeros(here.sum())
            inside = table.loc[here, f"{name}_x"].abs() < 2.5  # values are cut there
            np.testing.assert_allclose(added[inside], expected[inside], atol=1e-5)


def test_pictures_of_a_patient_differ_by_the_spread():
    table = picture_table(BiopsiesConfig(subjects=200, picture_spread=0.5, effect=0))
    within = table.groupby(["subject", "modality"])[list(PROPERTIES)].var(ddof=1).mean()
    np.testing.assert_allclose(np.sqrt(within), 0.5, atol=0.03)  # a little less than 0.5, as values are cut
    np.testing.assert_allclose(table.groupby("subject")[list(PROPERTIES)].mean().std(), 1, atol=0.15)


# --- The pictures ---


def test_same_seed_same_bytes_another_picture_another_section():
    subject = biopsy(3, SMALL)
    first = make_picture(subject, "100X", 1, SMALL)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert first.tobytes() == make_picture(biopsy(3, SMALL), "100X", 1, SMALL).tobytes()
    others = [
        make_picture(subject, "100X", 2, SMALL),
        make_picture(subject, "200X", 1, SMALL),
        make_picture(biopsy(4, SMALL), "100X", 1, SMALL),
        make_picture(biopsy(3, reseeded := SMALL.model_copy(update={"seed": 1})), "100X", 1, reseeded),
    ]
    assert all(np.mean(first != other) > 0.5 for other in others)


def measured(picture: np.ndarray) -> dict[str, float]:
    """What can be seen: nuclei take red light, the tissue around them green."""
    density = -np.log10(np.maximum(picture.astype(float), 1) / 245)
    nucleus = density[..., 0] > 0.3
    _, count = ndimage.label(nucleus)
    return {
        "nuclei": count,
        "area": nucleus.sum() / count,
        "darkness": float(np.median(density[..., 0][nucleus])),
        "stroma": float(np.median(density[..., 1][~nucleus])),
    }


@pytest.mark.parametrize("modality", MAGNIFICATIONS)
def test_every_property_can_be_seen_and_is_not_another_one(modality):
    seen = {}
    for name in (None, *PROPERTIES):
        shown = dict.fromkeys(PROPERTIES, 0.0) | ({name: 1.0} if name else {})
        sections = [draw_section(shown, modality, 256, np.random.default_rng(i)) for i in range(6)]
        seen[name] = pd.DataFrame([measured(picture) for picture in sections]).mean()
    ratio = {name: seen[name] / seen[None] for name in PROPERTIES}
    assert ratio["crowding"]["nuclei"] > 1.1
    assert ratio["size"]["area"] > 1.25
    assert ratio["size"]["nuclei"] < 1.05
    assert ratio["darkness"]["darkness"] == pytest.approx(np.exp(0.35), rel=0.08)
    assert ratio["stroma"]["stroma"] == pytest.approx(np.exp(0.45), rel=0.08)
    for name in PROPERTIES:
        for other in {"darkness", "stroma"} - {name}:
            assert ratio[name][other] == pytest.approx(1, abs=0.08), (name, other)


def test_nuclei_are_fewer_and_larger_at_higher_magnification():
    sections = [
        pd.DataFrame(
            [measured(draw_section(dict.fromkeys(PROPERTIES, 0.0), m, 256, np.random.default_rng(i))) for i in range(3)]
        ).mean()
        for m in MAGNIFICATIONS
    ]
    assert all(a["nuclei"] > 1.5 * b["nuclei"] and a["area"] < b["area"] / 1.5 for a, b in itertools.pairwise(sections))


# --- What they are for: pooling before deciding beats averaging decisions ---


def aucs(features: np.ndarray, table: pd.DataFrame, trained: int) -> dict[str, float]:
    """AUC on subjects after the first `trained`, of single pictures, of the mean of their scores, and of sets.

    One logistic regression a magnification scores single pictures. A set is one on the mean or the maximum of features
    that have a place of their own for each magnification, as φ(x, m) can.
    """
    subject = table["subject"].str[4:].astype(int).to_numpy() - 1
    level = table["modality"].map({name: i for i, name in enumerate(MAGNIFICATIONS)}).to_numpy()
    truth = (table["tumour"] == "malignant").to_numpy()
    train = subject < trained
    features, scores = features.copy(), np.zeros(len(table))
    for k in range(len(MAGNIFICATIONS)):
        known = features[train & (level == k)]
        features[level == k] = (features[level == k] - known.mean(0)) / known.std(0)
        model = LogisticRegression(max_iter=2000).fit(features[train & (level == k)], truth[train & (level == k)])
        scores[level == k] = model.decision_function(features[level == k])
    chances = pd.Series(1 / (1 + np.exp(-scores))).groupby(subject).mean()
    label = pd.Series(truth).groupby(subject).first()
    result = {"picture": roc_auc_score(truth[~train], scores[~train])}
    result["scores"] = roc_auc_score(label[trained:], chances[trained:])
    for how, elsewhere in (("mean", 0.0), ("max", -4.0)):
        placed = np.full((len(table), 4 * features.shape[1]), elsewhere)
        for k in range(len(MAGNIFICATIONS)):
            placed[level == k, k * features.shape[1] : (k + 1) * features.shape[1]] = features[level == k]
        pooled = pd.DataFrame(placed).groupby(subject).agg(how).to_numpy()
        pooled = (pooled - pooled[:trained].mean(0)) / pooled[:trained].std(0)
        model = LogisticRegression(C=0.3, max_iter=2000).fit(pooled[:trained], label[:trained])
        result[how] = roc_auc_score(label[trained:], model.decision_function(pooled[trained:]))
    return result


@pytest.mark.parametrize("seed", [0, 1])
def test_a_set_tells_more_than_the_mean_of_scores(seed: int):
    table = picture_table(BiopsiesConfig(subjects=300, seed=seed))
    counts = aucs(table[list(PROPERTIES)].to_numpy(), table, trained=100)
    assert 0.6 < counts["picture"] < 0.8
    assert counts["picture"] + 0.05 < counts["scores"]
    wrong = {how: 1 - counts[how] for how in ("scores", "mean", "max")}  # share of pairs put in the wrong order
    assert wrong["mean"] < 0.6 * wrong["scores"]
    assert wrong["max"] < 0.6 * wrong["scores"]


def test_the_gain_comes_from_what_other_magnifications_show():
    table = picture_table(BiopsiesConfig(subjects=300))
    own = [PROPERTIES[MAGNIFICATIONS.index(name)] for name in table["modality"]]
    alone = np.array([row[name] for row, name in zip(table.to_dict("records"), own, strict=True)])[:, None]
    counts = aucs(alone, table, trained=100)
    assert abs(counts["mean"] - counts["scores"]) < 0.04


def test_without_an_effect_nothing_is_told():
    table = picture_table(BiopsiesConfig(subjects=500, effect=0))
    counts = aucs(table[list(PROPERTIES)].to_numpy(), table, trained=100)
    assert all(abs(value - 0.5) < 0.12 for value in counts.values()), counts


def test_it_holds_for_what_is_measured_on_the_pictures():
    config = BiopsiesConfig(subjects=200, picture_px=80, fewest=2, most=5)
    table, rows = picture_table(config), []
    for row in table.to_dict("records"):
        picture = make_picture(biopsy(int(row["subject"][4:]), config), row["modality"], row["picture"], config)
        density = -np.log10(np.maximum(picture.astype(float), 1) / 245)
        nucleus = density[..., 0] > 0.13
        edge = ndimage.gaussian_gradient_magnitude(density[..., 0], 1).mean()
        seen = [nucleus.mean(), edge, np.median(density[..., 1][~nucleus]), density[..., 0][nucleus].mean()]
        rows.append([*seen, np.log((nucleus.mean() + 0.01) / edge)])
    counts = aucs(np.array(rows), table, trained=120)
    assert counts["mean"] > counts["scores"] + 0.05
    assert counts["mean"] > 0.8


# --- What is refused ---


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subjects", 1), ("seed", -1), ("picture_px", 32), ("fewest", 0), ("absent", 1), ("effect", -1),
        ("picture_spread", float("nan")), ("magnification", "40X"),
    ],
)  # fmt: skip
def test_config_refuses_nonsense_and_names_the_key(key: str, value: object):
    with pytest.raises(ValidationError, match=rf"(?m)^{key}$"):
        BiopsiesConfig(**{key: value})


def test_fewest_above_most_is_refused():
    with pytest.raises(ValidationError, match="fewest is 5 and most is 4"):
        BiopsiesConfig(fewest=5, most=4)


def test_pictures_that_do_not_exist_are_refused():
    subject = biopsy(1, SMALL)
    with pytest.raises(ValueError, match="bio-001: magnification '60X' is unknown; expected 40X, 100X, 200X, 400X"):
        make_picture(subject, "60X", 1, SMALL)  # type: ignore[arg-type]
    last = subject.pictures("40X")
    with pytest.raises(ValueError, match=f"no picture {last + 1} at 40X; it has {last}"):
        picture_properties(subject, "40X", last + 1, SMALL)
