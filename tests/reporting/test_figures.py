"""Figures are the same bytes each time, and bear names that look like markup or mathematics."""

from __future__ import annotations

from xml.etree import ElementTree

import pandas as pd
import pytest

from reporting import figures, tables


def draw_all(data) -> list[bytes]:
    """Every figure of the report."""
    parts = data.splits[data.splits["repeat"] == 0].set_index("subject")["split"].to_dict()
    return [
        figures.availability_figure(data.observations, data.availability, parts),
        figures.learning_curves(data.histories["pretrain"]),
        figures.roc_figure(data.predictions, data.classes),
        figures.calibration_figure(data.predictions, data.classes),
        figures.subset_forest(data.subsets, tables.SUBSET_GROUPS),
    ]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_same_data_give_the_same_svg(n_classes: int, report_data) -> None:
    first, second = (draw_all(report_data(n_classes=n_classes)) for _ in range(2))
    assert first == second
    for svg in first:
        assert ElementTree.fromstring(svg).tag.endswith("svg")
        assert b"<dc:date>" not in svg


def test_several_scans_of_a_modality_show_the_best_state() -> None:
    observations = pd.DataFrame({"observation": ["a"], "subject": ["a"], "label": ["x"]})
    scans = pd.DataFrame({"observation": "a", "modality": "MRI", "state": ["hidden", "used", "failed"]})
    used = figures.availability_figure(observations, scans, {"a": "test"})
    assert used == figures.availability_figure(observations, scans.iloc[[1]], {"a": "test"})
    assert used != figures.availability_figure(observations, scans.iloc[[0]], {"a": "test"})


def test_names_with_dollar_signs_and_tags_are_drawn_as_they_are(report_data) -> None:
    data = report_data(n_classes=2)
    names = ("$x^{$", "<b>&")
    assert figures.roc_figure(data.predictions, names)
    subsets = data.subsets.assign(modalities="$_<b>")
    assert ElementTree.fromstring(figures.subset_forest(subsets, tables.SUBSET_GROUPS)) is not None


def test_a_forest_without_any_number_is_drawn(report_data) -> None:
    subsets = report_data().subsets.assign(auc_mean=float("nan"), auc_low=float("nan"), auc_high=float("nan"))
    assert figures.subset_forest(subsets, tables.SUBSET_GROUPS)
