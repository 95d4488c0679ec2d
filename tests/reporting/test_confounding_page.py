"""What the two sections say, in which case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from evaluation.comparison import comparison_table
from evaluation.confounding import GAIN_COLUMNS, group_table
from reporting.confounding_page import Confounding, answers, confounding_section, images_add
from reporting.report import ReportData, render_report

NOTHING = dict.fromkeys(GAIN_COLUMNS, np.nan)
GAIN = NOTHING | {
    "n": 160.0, "covariates_auc": 0.79, "fused_auc": 0.81, "difference": 0.02, "low": -0.05, "high": 0.08,
    "availability_auc": 0.42, "availability_low": 0.3, "availability_high": 0.55,
}  # fmt: skip


@pytest.mark.parametrize(
    ("gain", "covariates", "words"),
    [
        (GAIN, ("age", "sex"), "add nothing to age and sex that these patients could show: AUC 0.79 from age and sex"),
        (GAIN | {"low": 0.01}, ("age",), "The images add to age: AUC 0.79 from age alone, 0.81 with the images (+0.02"),
        (GAIN | {"low": -0.09, "high": -0.01}, ("age",), "With the images it gets worse than with age alone"),
        (GAIN | {"low": None}, ("age",), "too few patients for an interval"),
        (NOTHING, ("age", "sex", "site"), "add to age, sex and site cannot be said"),
        (NOTHING, (), "the manifest has none of the columns of cohort.covariates"),
    ],
)
def test_what_the_images_add_is_said(gain: dict[str, float], covariates: tuple[str, ...], words: str) -> None:
    assert words in images_add(gain, covariates)


def test_availability_is_named_only_where_it_tells_the_label() -> None:
    assert len(answers(GAIN, ("age",))) == 1
    told = answers(GAIN | {"availability_auc": 0.72, "availability_low": 0.61, "availability_high": 0.8}, ("age",))
    assert "Which scans were made already tells the label: AUC 0.72 (interval 0.61 to 0.80)" in told[1]


@pytest.fixture
def page(make_predictions: Callable[..., pd.DataFrame]) -> Confounding:
    rows = make_predictions().drop(columns="scans_used")
    site = (
        rows.drop_duplicates("observation")
        .set_index("observation")["subject"]
        .map(lambda s: "<A>" if s < "sub-030" else "B")
    )
    both = pd.concat([rows.assign(method=name, scenario="test") for name in ("HyperMM", "covariates only")])
    probes = [
        ("the class", "category", "MRI", 50, 50, 0.9, 0.8, 0.95, ""),
        ("site", "category", "MRI", 48, 48, 0.97, 0.9, 1.0, "left out, fewer than 10 patients: C"),
        ("age", "number", "MRI", 50, 50, 0.05, -0.2, 0.2, ""),
        ("sex", "category", "MRI", 8, 8, np.nan, np.nan, np.nan, "too few"),
    ]
    columns = ["covariate", "kind", "modality", "n", "subjects", "mean", "low", "high", "remark"]
    score = {"mean": 0.8, "std": 0.02, "low": 0.7, "high": 0.9}
    splits = [
        {"split": by, "n": 90, "subjects": 40, "repeats": 3}
        | {f"{m}_{end}": v - 0.1 * (by == "site") for m in ("auc", "balanced_accuracy") for end, v in score.items()}
        for by in ("subject", "site")
    ]
    return Confounding(
        comparison=comparison_table(both, reference="covariates only"),
        probes=pd.DataFrame(probes, columns=columns),
        groups=group_table(rows, {"site": site}, smallest=200),
        splits=pd.DataFrame(splits),
        covariates=("age", "sex", "site"),
        gain=GAIN,
        reference="covariates only",
        smallest_group=200,
        folds=5,
        repetitions=3,
    )


def test_what_is_told_is_marked_and_what_is_too_few_is_said(page: Confounding) -> None:
    found = confounding_section(page)
    assert found["probes"].flagged == {1}
    assert found["told"].startswith("The feature maps tell site.")
    assert found["probes"].rows[3][4:] == ("–", "–", "too few")
    assert all(row[4].startswith("too few: ") for row in found["groups"].rows)
    assert [row[0] for row in found["splits"].rows] == [
        "this run: at random, by patient", "other workspace: by site: tested where it was not trained",
    ]  # fmt: skip
    assert found["split_note"] == ""
    alone = confounding_section(dataclasses.replace(page, splits=page.splits[:1]))
    assert "--split.by site" in alone["split_note"]
    alone = confounding_section(dataclasses.replace(page, splits=page.splits[:1], covariates=("age",)))
    assert "no covariate site" in alone["split_note"]


def test_the_report_has_both_sections(page: Confounding, report_data: Callable[..., ReportData]) -> None:
    data = report_data()
    without = render_report(data)
    html = render_report(dataclasses.replace(data, confounding=page))
    for anchor in ("images-add", "confounding"):
        assert f'<section id="{anchor}">' in html
        assert f'href="#{anchor}"' in html
        assert anchor not in without
    assert "&lt;A&gt;" in html
    assert "<A>" not in html
