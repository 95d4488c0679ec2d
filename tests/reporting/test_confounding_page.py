"""What the two sections say, in which case."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from evaluation.comparison import comparison_table
from evaluation.confounding import GAIN_COLUMNS
from evaluation.fairness import audit_groups, gaps_between_groups
from reporting.confounding_page import Confounding, answers, availability_tells, confounding_section, images_add
from reporting.fairness_others import FairnessOfOthers, imputed_in_words, others_section, sets_in_words
from reporting.fairness_page import Fairness, fairness_section, gaps_in_words
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
    assert told[1].endswith("The classifier may have learnt the hospital’s habit.")


def test_where_scans_are_missing_the_auc_of_availability_is_always_said() -> None:
    sentence = "That alone tells the label with AUC 0.42 (interval 0.30 to 0.55), which is not above chance."
    assert availability_tells(GAIN, lacking=True).endswith(sentence)
    assert answers(GAIN, ("age",), lacking=True)[1].endswith(sentence)
    perfect = GAIN | {"availability_auc": 1.0, "availability_low": np.nan}
    assert availability_tells(perfect, lacking=True).endswith(
        "with AUC 1.00; there are too few patients for an interval, so nothing follows."
    )
    assert "could not be asked" in availability_tells(NOTHING, lacking=True)
    assert availability_tells(GAIN) == availability_tells(NOTHING) == ""


@pytest.fixture
def page(make_predictions: Callable[..., pd.DataFrame]) -> Confounding:
    rows = make_predictions().drop(columns="scans_used")
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
        fairness=fairness_of(rows),
        splits=pd.DataFrame(splits),
        covariates=("age", "sex", "site"),
        gain=GAIN,
        reference="covariates only",
        folds=5,
        repetitions=3,
        lacking=0,
    )


def fairness_of(rows: pd.DataFrame, *, smallest: int = 5, harm: float = 0.0) -> Fairness:
    """The audit of two sites; with `harm`, half of site <A> has a random probability."""
    names = pd.Series(sorted(rows["subject"].unique()))
    site = pd.Series(np.where(names < "sub-030", "<A>", "B"), index=names)
    random = np.random.default_rng(0)
    in_a = rows["subject"].map(site) == "<A>"
    p = rows["p_1"].where(~in_a | (random.random(len(rows)) > harm), random.random(len(rows)))
    rows = rows.assign(p_1=p, p_0=1 - p, decided=(p >= 0.5).astype(int))
    groups = {"site": site}
    audited = audit_groups(rows, groups, smallest=smallest)
    gaps = gaps_between_groups(rows, groups, audited, smallest=smallest, permutations=200)
    return Fairness(audited, gaps, smallest, 200, "AD")


def test_small_groups_are_listed_and_small_pairs_of_groups_are_not(
    make_predictions: Callable[..., pd.DataFrame],
) -> None:
    audit = fairness_of(make_predictions().drop(columns="scans_used"))
    pair = audit.groups.assign(grouping="site and sex", group=[f"{name}, F" for name in audit.groups["group"]])
    both = dataclasses.replace(audit, groups=pd.concat([audit.groups, pair]))
    names = [row[0] for row in fairness_section(both)["groups"].rows]
    assert names == ["site", "site", "site and sex", "site and sex"]
    few = dataclasses.replace(both, groups=both.groups.assign(fewest=1))
    assert [row[0] for row in fairness_section(few)["groups"].rows] == ["site", "site"]


def test_what_is_told_is_marked_and_what_is_too_few_is_said(page: Confounding) -> None:
    found = confounding_section(page)
    assert found["probes"].flagged == {1}
    assert found["told"].startswith("The feature maps tell site.")
    assert found["probes"].rows[3][4:] == ("–", "–", "too few")
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
    for anchor in ("images-add", "confounding", "fairness"):
        assert f'<section id="{anchor}">' in html
        assert f'href="#{anchor}"' in html
        assert anchor not in without
    assert "&lt;A&gt;" in html
    assert "<A>" not in html


def others_of(page: Fairness) -> FairnessOfOthers:
    """A comparator with the same scores, imputations that are worse in site <A>, sets by site, synthetic women."""
    imputed = {"modality": "PET", "grouping": "site"}
    means = [
        imputed | {"group": g, "subjects": 20, "mean": m, "low": m - 0.1, "high": m + 0.1}
        for g, m in (("<A>", 2), ("B", 1))
    ]
    gap = imputed | {"groups": 2, "highest": "<A>", "lowest": "B", "gap": 1.0, "low": 0.8, "high": 1.2, "p": 0.001}
    holds = {"measure": "conformal set holds the class"}
    sets = [row | holds | {"mean": row["mean"] / 2.5} for row in means]
    shares = [("sex", "<F>", 10, 30, 0.5, 0.75), ("sex", "M", 10, 10, 0.5, 0.25)]
    names = ["grouping", "group", "training", "synthetic", "share_training", "share_synthetic"]
    return FairnessOfOthers(
        page.groups.assign(of="Multi<CNN>"), page.gaps.assign(of="Multi<CNN>"), pd.DataFrame(means),
        pd.DataFrame([gap | {"p_holm": 0.002}]), pd.DataFrame(shares, columns=names),
        pd.DataFrame(sets), pd.DataFrame([gap | holds | {"p_holm": 0.003}]),
        {"name": "Multi<CNN>", "validation": {"Multi<CNN>": 0.81, "b": 0.7}, "left_out": {"c": "one class"}},
    )  # fmt: skip


def test_others_are_told_with_how_they_were_chosen(page: Confounding, report_data: Callable[..., ReportData]) -> None:
    others = others_of(page.fairness)
    found = others_section(others, page.fairness)
    assert found["classifiers"][0]["how"] == (
        "Chosen among 2 comparators by its AUC 0.81 on validation patients. Not among them: c: one class."
    )
    assert found["classifiers"][0]["groups"].rows == fairness_section(page.fairness)["groups"].rows
    assert found["imputed_answer"][0].startswith(
        "PET is imputed worse by site: CRPS of <A> minus B is 1 (interval 0.80"
    )
    assert found["sets_answer"][0].startswith(
        "By site, conformal set holds the class: <A> minus B is 1.00 (interval 0.80"
    )
    assert found["sets"].rows[0] == ("conformal set holds the class", "site", "<A>", "20", "0.80", "1.90 to 2.10")
    alike = sets_in_words(others.gaps_sets.assign(p_holm=0.5), page.fairness)
    assert alike == [
        "Every group gets as much, as far as chance lets one see (1 tests; the smallest p is 0.5, corrected for their "
        "number)."
    ]
    assert "no two groups have 5 test patients" in sets_in_words(others.gaps_sets[:0], page.fairness)[0]
    few = dataclasses.replace(page.fairness, smallest_group=5)
    assert imputed_in_words(others.gaps_imputed.assign(p_holm=0.5), few)[0].startswith(
        "Scans are imputed as well in every"
    )
    assert "cannot be said: no two groups have 5 test" in imputed_in_words(others.gaps_imputed[:0], few)[0]
    rare = dataclasses.replace(few, permutations=10)
    assert "with 1 tests and 10 random groups no p can be below 0.091" in imputed_in_words(others.gaps_imputed, rare)[0]
    html = render_report(dataclasses.replace(report_data(), confounding=dataclasses.replace(page, others=others)))
    for words in ("Multi&lt;CNN&gt;", "Imputed scans", "PET is imputed worse", "Synthetic patients", "&lt;F&gt;"):
        assert words in html
    assert "<F>" not in html


def test_gaps_are_said_and_marked_only_where_chance_does_not_explain_them(
    make_predictions: Callable[..., pd.DataFrame],
) -> None:
    rows = make_predictions(n_subjects=200).drop(columns="scans_used")
    fair, harmed = fairness_of(rows), fairness_of(rows, harm=1.0)
    assert gaps_in_words(fair)[0].startswith("No gap between groups is larger than chance explains (4 tests; ")
    assert fairness_section(fair)["gaps"].flagged == frozenset()
    words = gaps_in_words(harmed)
    assert any(sentence.startswith("AUC by site: B minus <A> is 0.") for sentence in words)
    section = fairness_section(harmed)
    assert {section["gaps"].rows[i][1] for i in section["gaps"].flagged} >= {"AUC"}
    assert len(section["gaps"].flagged) == len(words)
    assert ("site", "Calibration slope") in {row[:2] for row in section["gaps"].rows}
    assert {row[-1] for row in section["gaps"].rows if row[1] == "Calibration slope"} == {"not tested"}


def test_where_random_groups_are_too_few_for_so_many_tests_nothing_is_said_of_chance(
    make_predictions: Callable[..., pd.DataFrame],
) -> None:
    page = fairness_of(make_predictions().drop(columns="scans_used"))
    gaps = pd.concat([page.gaps] * 3, ignore_index=True)  # 12 tests
    gaps["p_holm"] = gaps["p_holm"].where(gaps["p_holm"].isna(), 0.06)
    few, enough = (dataclasses.replace(page, gaps=gaps, permutations=n) for n in (200, 240))
    assert gaps_in_words(few) == [
        "Whether a gap is larger than chance explains cannot be said: with 12 tests and 200 random groups no p can be "
        "below 0.06, corrected for their number. Type --confounding.permutations 1000."
    ]
    assert gaps_in_words(enough)[0].startswith("No gap between groups is larger than chance explains (12 tests; ")


def test_groups_that_are_too_small_are_said_to_be(make_predictions: Callable[..., pd.DataFrame]) -> None:
    page = fairness_of(make_predictions().drop(columns="scans_used"), smallest=200)
    assert gaps_in_words(page) == [
        "Whether the model is as good in every group cannot be said: no two groups have 200 test patients of each "
        "class."
    ]
    found = fairness_section(page)
    assert all(row[5].startswith("too few: ") for row in found["groups"].rows)
    assert {len(row) for row in found["groups"].rows} == {len(found["groups"].headers)}
    assert found["gaps"].rows == ()
    three = dataclasses.replace(page, positive=None)
    assert "Sensitivity" not in fairness_section(three)["groups"].headers
