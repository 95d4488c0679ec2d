"""Tables of methods against rows worked out by hand; rows a method could not take; published figures as printed."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from evaluation.comparison import (
    COIN,
    COMPARED,
    COSTS,
    comparison_table,
    holm,
    mechanisms_table,
    patients_table,
    robustness_table,
    subsets_table,
)
from evaluation.intervals import paired_difference, summarise
from evaluation.published import COMPLETE, HALF_MRI, HALF_PET, published_rows
from reporting.comparison_figures import imputation_figure, mechanisms_figure, robustness_figure
from reporting.comparison_page import Comparison, comparison_markdown, comparison_section
from reporting.comparison_tables import mechanisms_text, pattern_sentences, pattern_text, subsets_text
from reporting.pages import environment
from reporting.report import render_report

TRUTH = {"a": 0, "b": 0, "c": 1, "d": 1}


def rows_of(method: str, scores: dict[str, float], *, scenario: str = "complete", repeat: int = 1) -> pd.DataFrame:
    """One prediction a subject; a score of NaN is one that could not be made."""
    return pd.DataFrame(
        [
            (scenario, method, repeat, name, f"{name}_1", TRUTH[name], 1 - score, score)
            for name, score in scores.items()
        ],
        columns=["scenario", "method", "repeat", "subject", "observation", "truth", "p_0", "p_1"],
    )


@pytest.fixture
def by_hand() -> pd.DataFrame:
    """HyperMM is right but for one subject in repeat 1; Multi-CNN cannot take b; pix2pix takes nobody."""
    return pd.concat(
        [
            rows_of("HyperMM", {"a": 0.1, "b": 0.6, "c": 0.7, "d": 0.9}),
            rows_of("HyperMM", {"a": 0.2, "b": 0.3, "c": 0.8, "d": 0.9}, repeat=2),
            rows_of("Multi-CNN", {"a": 0.8, "b": np.nan, "c": 0.7, "d": 0.9}),
            rows_of("Multi-CNN", {"a": 0.2, "b": np.nan, "c": 0.1, "d": 0.9}, repeat=2),
            rows_of("pix2pix", dict.fromkeys("abcd", np.nan)),
        ]
    )


@pytest.fixture(scope="module")
def compared(make_predictions: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """Two scenarios of made-up predictions, three methods, of which one cannot take some subjects."""
    frames = []
    for i, scenario in enumerate(("complete", "half")):
        base = make_predictions(seed=i).drop(columns="scans_used").assign(scenario=scenario)
        noise = np.random.default_rng(i).uniform(0, 1, len(base))
        worse = base.assign(p_1=(base["p_1"] + noise) / 2).assign(p_0=lambda table: 1 - table["p_1"])
        lost = base.index % 4 == 0
        partial = worse.assign(p_0=worse["p_0"].mask(lost), p_1=worse["p_1"].mask(lost))
        frames += [base.assign(method="HyperMM"), worse.assign(method="Uni-CNN"), partial.assign(method="Multi-CNN")]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="module")
def table(compared: pd.DataFrame) -> pd.DataFrame:
    costs = pd.DataFrame(
        [("complete", "HyperMM", 0.0, 75.0, 1234.4, 5_000_000)], columns=["scenario", "method", *COSTS]
    )
    return comparison_table(compared, costs=costs, reasons={("half", "pix2pix"): "nobody has both scans"})


# --- Holm ---


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # 4 x .005, 3 x .01, 2 x .03, then .04 raised to .06
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.9, 0.5], [1.0, 1.0]),
        ([0.03, np.nan, 0.01], [0.03, np.nan, 0.02]),
        ([0.2], [0.2]),
        ([np.nan], [np.nan]),
        ([], []),
    ],
)
def test_holm_equals_rows_worked_out_by_hand(given: list[float], expected: list[float]) -> None:
    np.testing.assert_allclose(holm(given), expected)


def test_holm_rejects_what_the_step_down_procedure_rejects() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        values, level = generator.uniform(0, 0.2, 6), 0.1
        rejected = set()
        for step, place in enumerate(np.argsort(values)):  # Holm's own words: stop at the first that is too large
            if values[place] > level / (6 - step):
                break
            rejected.add(place)
        assert set(np.flatnonzero(holm(values) <= level)) == rejected


@pytest.mark.parametrize("wrong", [[0.1, 1.2], [-0.1], [[0.1]]])
def test_holm_refuses_what_is_no_list_of_p_values(wrong: list) -> None:
    with pytest.raises(ValueError, match="expected"):
        holm(wrong)


# --- The table ---


def test_scores_equal_rows_worked_out_by_hand(by_hand: pd.DataFrame) -> None:
    found = comparison_table(by_hand).set_index("method")
    hyper, multi = found.loc["HyperMM"], found.loc["Multi-CNN"]
    assert list(found.index) == ["HyperMM", "Multi-CNN", "pix2pix"]
    assert (hyper["n"], hyper["n_asked"], hyper["subjects"], hyper["repeats"]) == (8, 8, 4, 2)
    assert (hyper["accuracy_mean"], hyper["accuracy_std"]) == pytest.approx((0.875, np.std([0.75, 1], ddof=1)))
    assert (hyper["auc_mean"], hyper["auc_rounded_mean"]) == (1.0, 0.875)
    assert hyper["precision_mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert hyper["recall_mean"] == 1
    assert hyper["f1_mean"] == pytest.approx((0.8 + 1) / 2)
    assert (multi["n"], multi["n_asked"], multi["subjects"], multi["subjects_asked"]) == (6, 8, 3, 4)
    assert multi["auc_mean"] == pytest.approx((0.5 + 0.5) / 2)  # a above c, below d; c below a, d above
    assert multi["accuracy_mean"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert multi["note"] == "2 of 8 test predictions could not be made"


def test_differences_are_on_the_rows_that_both_could_take(by_hand: pd.DataFrame) -> None:
    found = comparison_table(by_hand).set_index("method").loc["Multi-CNN"]
    assert found["n_shared"] == 6
    assert found["auc_difference"] == pytest.approx(0.5 - 1)
    # Without b, HyperMM decides all others rightly; Multi-CNN has balanced accuracy (0 + 1) / 2 and (1 + 0.5) / 2.
    assert found["balanced_accuracy_difference"] == pytest.approx((0.5 + 0.75) / 2 - 1)


def test_a_method_without_predictions_has_a_row_that_says_so(by_hand: pd.DataFrame) -> None:
    reasons = {("complete", "pix2pix"): "one training subject has both scans", ("half", "cycleGAN"): "not enough scans"}
    found = comparison_table(by_hand, reasons=reasons).set_index(["scenario", "method"])
    row, other = found.loc["complete", "pix2pix"], found.loc["half", "cycleGAN"]
    assert row["note"] == "no predictions: one training subject has both scans"
    assert other["note"] == "no predictions: not enough scans"
    assert (row["n"], row["n_asked"], other["n_asked"]) == (0, 8, 0)
    assert found.loc[[("complete", "pix2pix")], [f"{name}_mean" for name in COMPARED]].isna().all(axis=None)
    assert np.isnan(row["auc_p_holm"])
    assert comparison_table(by_hand)["note"].iloc[2] == "no predictions"


def test_intervals_and_p_values_are_those_of_the_intervals_module(compared: pd.DataFrame, table: pd.DataFrame) -> None:
    half = compared[compared["scenario"] == "half"]
    hyper, multi = half[half["method"] == "HyperMM"], half[half["method"] == "Multi-CNN"].dropna()
    row = table.set_index(["scenario", "method"]).loc["half", "Multi-CNN"]
    summary = summarise(multi)
    for name in COMPARED:
        found = [row[f"{name}_{end}"] for end in ("mean", "std", "low", "high")]
        np.testing.assert_allclose(found, [summary[name][end] for end in ("mean", "std", "low", "high")])
    key = ["repeat", "observation"]
    expected = paired_difference(multi, hyper.merge(multi[key], on=key), "auc")
    found = [row[f"auc_{end}"] for end in ("difference", "difference_low", "difference_high", "p")]
    np.testing.assert_allclose(found, [expected[end] for end in ("difference", "low", "high", "p")])


def test_the_calibration_error_is_that_of_all_repeats_together() -> None:
    """Each repeat alone says .55 where nobody, or everybody, is ill; together half are."""
    first = rows_of("HyperMM", {"a": 0.55, "b": 0.55, "c": 0.95})
    both = pd.concat([first, rows_of("HyperMM", {"c": 0.55, "d": 0.55, "a": 0.05}, repeat=2)])
    nothing = rows_of("pix2pix", dict.fromkeys("abcd", np.nan))
    found = comparison_table(pd.concat([both, nothing])).set_index("method")["ece"]
    assert found["HyperMM"] == pytest.approx((4 * 0.05 + 0.05 + 0.05) / 6)
    assert np.isnan(found["pix2pix"])
    assert comparison_table(first)["ece"][0] == pytest.approx((2 * 0.55 + 0.05) / 3)


def test_holm_is_within_a_scenario_and_leaves_the_reference_out(table: pd.DataFrame) -> None:
    for _, rows in table.groupby("scenario"):
        for metric in ("auc", "balanced_accuracy"):
            np.testing.assert_allclose(rows[f"{metric}_p_holm"], holm(rows[f"{metric}_p"]))
    assert table.loc[table["method"] == "HyperMM", ["auc_difference", "auc_p", "auc_p_holm"]].isna().all(axis=None)
    assert table.groupby("scenario")["auc_p"].count().to_dict() == {"complete": 2, "half": 2}


def test_costs_are_joined_and_unknown_ones_stay_empty(table: pd.DataFrame) -> None:
    assert table.loc[0, list(COSTS)].to_list() == [0.0, 75.0, 1234.4, 5_000_000]
    assert table.loc[1:, list(COSTS)].isna().all(axis=None)


def test_rows_and_methods_may_come_in_any_order(compared: pd.DataFrame) -> None:
    there = comparison_table(compared)
    here = comparison_table(compared.sample(frac=1, random_state=0))
    key = ["scenario", "method"]
    pd.testing.assert_frame_equal(
        here.sort_values(key, ignore_index=True), there.sort_values(key, ignore_index=True), check_exact=False
    )


def test_methods_that_share_no_row_are_not_compared() -> None:
    halves = [rows_of("HyperMM", {"a": 0.1, "c": 0.9}), rows_of("Uni-CNN PET", {"b": 0.1, "d": 0.9})]
    row = comparison_table(pd.concat(halves)).set_index("method").loc["Uni-CNN PET"]
    assert (row["n"], row["n_asked"], row["n_shared"]) == (2, 4, 0)
    assert row["note"].endswith("no test prediction in common with HyperMM")
    assert np.isnan(row["auc_difference"])


def test_a_method_of_fewer_repeats_says_so(by_hand: pd.DataFrame) -> None:
    stopped = by_hand[(by_hand["method"] == "HyperMM") | (by_hand["repeat"] == 1)]
    found = comparison_table(stopped).set_index("method")["note"]
    assert found["Multi-CNN"] == "predictions of 1 of 2 repeats; 5 of 8 test predictions could not be made"
    assert found["HyperMM"] == ""


def test_what_cannot_be_compared_is_refused_by_name(by_hand: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="reference 'ShaSpec' made no predictions; .* HyperMM, Multi-CNN"):
        comparison_table(by_hand, reference="ShaSpec")
    with pytest.raises(ValueError, match="reference 'pix2pix' made no predictions"):
        comparison_table(by_hand, reference="pix2pix")
    with pytest.raises(ValueError, match=r"lack the column\(s\) scenario"):
        comparison_table(by_hand.drop(columns="scenario"))
    with pytest.raises(ValueError, match="complete, HyperMM: repeat 1, observation 'a_1' is predicted twice"):
        comparison_table(pd.concat([by_hand, by_hand.head(1)]))
    with pytest.raises(ValueError, match="complete, HyperMM: .* has some probabilities and lacks others"):
        comparison_table(by_hand.assign(p_0=by_hand["p_0"].where(by_hand["p_1"] != 0.1)))
    wrong = pd.concat([by_hand, rows_of("Other", {"a": 0.5}).assign(truth=1)])
    with pytest.raises(ValueError, match="observation 'a_1' has another truth in another method"):
        comparison_table(wrong)
    costs = pd.DataFrame([("complete", "HyperMM", 0, 1, 1, 1)] * 2, columns=["scenario", "method", *COSTS])
    with pytest.raises(ValueError, match="costs have two rows for 'HyperMM' in 'complete'"):
        comparison_table(by_hand, costs=costs)
    with pytest.raises(ValueError, match=r"costs lack the column\(s\) peak_memory_mb"):
        comparison_table(by_hand, costs=costs.drop(columns="peak_memory_mb"))


# --- Subsets ---


@pytest.fixture
def by_subset(by_hand: pd.DataFrame) -> pd.DataFrame:
    """HyperMM of both scans; of one scan it knows nothing; Multi-CNN lacks b, and takes nobody with one scan."""
    both = by_hand[by_hand["method"].isin(["HyperMM", "Multi-CNN"])].assign(modalities="MRI+PET")
    one = both.assign(modalities="PET", p_0=0.5, p_1=0.5)
    one.loc[one["method"] == "Multi-CNN", ["p_0", "p_1"]] = np.nan
    return pd.concat([one, both])


def test_subsets_are_scored_beside_a_coin(by_subset: pd.DataFrame) -> None:
    found = subsets_table(by_subset)
    assert list(zip(found["modalities"], found["method"], found["n"], found["n_asked"], strict=True)) == [
        *(("", COIN, 8, 8), ("PET", "HyperMM", 8, 8), ("PET", "Multi-CNN", 0, 8)),
        *(("MRI+PET", "HyperMM", 8, 8), ("MRI+PET", "Multi-CNN", 6, 8)),
    ]
    scores = found[["auc_mean", "log_loss_mean", "brier_mean"]].to_numpy()
    np.testing.assert_allclose(scores[0], [0.5, np.log(2), 0.25])
    np.testing.assert_allclose(scores[1], scores[0])
    assert np.isnan(scores[2]).all()
    hyper = by_subset[(by_subset["method"] == "HyperMM") & (by_subset["modalities"] == "MRI+PET")]
    brier = ((hyper["p_1"] - hyper["truth"]) ** 2).groupby(hyper["repeat"]).mean().mean()
    loss = -np.log(hyper["p_1"].where(hyper["truth"] == 1, hyper["p_0"])).groupby(hyper["repeat"]).mean().mean()
    np.testing.assert_allclose(scores[3], [1.0, loss, brier])
    assert np.isnan(found["auc_low"].iloc[0])


def test_a_coin_between_three_classes() -> None:
    three = rows_of("HyperMM", {"a": 0.2, "c": 0.4, "d": 0.4}).assign(p_0=0.3, p_1=0.3, p_2=0.4, modalities="PET")
    coin = subsets_table(three.assign(truth=[0, 1, 2])).iloc[0]
    assert (coin["log_loss_mean"], coin["brier_mean"]) == pytest.approx((np.log(3), 2 / 3))


def test_the_table_of_subsets_leaves_out_who_could_take_nobody(by_subset: pd.DataFrame, table: pd.DataFrame) -> None:
    subsets = subsets_table(by_subset)
    text = subsets_text(subsets)
    assert [row[:3] for row in text.rows] == [
        ("–", "a coin", "8"),
        ("PET", "HyperMM", "8"),
        ("MRI+PET", "HyperMM", "8"),
        ("MRI+PET", "Multi-CNN", "6 of 8"),
    ]
    assert text.rows[0][3:] == ("0.50", "0.693", "0.250")
    assert text.rows[1][3].startswith("0.50 [")
    page = comparison_markdown(table, cohort="this cohort", subsets=subsets)
    assert page.count("### Given only some of the scans") == 1
    assert "| – | a coin | 8 | 0.50 | 0.693 | 0.250 |" in page
    assert "Given only some" not in comparison_markdown(table, cohort="this cohort")
    shown = comparison_section(Comparison(table, "this cohort", subsets=subsets))
    assert shown["subsets"] == text


# --- What the paper printed ---


def test_published_rows_are_those_of_the_paper() -> None:
    adni, breakhis = published_rows("ADNI"), published_rows("BreakHis")
    assert adni.groupby("scenario", sort=False).size().to_dict() == {COMPLETE: 6, HALF_PET: 3, HALF_MRI: 3}
    assert len(breakhis) == 6
    best = adni.set_index(["scenario", "method"]).loc[COMPLETE, "HyperMM"]
    metrics = ("accuracy", "auc_rounded", "f1", "precision", "recall")
    assert [best[f"{name}_mean"] for name in metrics] == [0.74, 0.73, 0.70, 0.70, 0.70]
    assert [best[f"{name}_std"] for name in metrics] == [0.02, 0.02, 0.01, 0.02, 0.02]
    assert (best["cohort"], best["subjects"]) == ("ADNI", 300)
    assert "165 CN, 135 AD" in best["size"]
    assert best["source"].endswith("table 1")
    incremental = breakhis.set_index("method").loc["Incremental-CNN"]
    assert [incremental[f"{name}_mean"] for name in metrics] == [0.89, 0.88, 0.90, 0.88, 0.93]
    assert (incremental["subjects"], incremental["source"][-7:]) == (53, "table 2")


@pytest.mark.parametrize("cohort", ["ADNI", "BreakHis"])
def test_published_precision_recall_and_f1_fit_each_other_but_for_one_misprint(cohort) -> None:
    """The F1 of a mean is not the mean of F1s, but near it; a figure mistyped here would stand out."""
    rows = published_rows(cohort)
    f1 = 2 * rows["precision_mean"] * rows["recall_mean"] / (rows["precision_mean"] + rows["recall_mean"])
    off = rows.loc[(f1 - rows["f1_mean"]).abs() > 0.021, "method"]
    assert list(off) == (["Uni-CNN PET"] if cohort == "ADNI" else [])


def test_a_cohort_that_the_paper_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="no figures for 'OASIS'; it has them for ADNI, BreakHis"):
        published_rows("OASIS")  # type: ignore[arg-type]


# --- The page ---


def cells(markdown: str, method: str) -> list[list[str]]:
    """The cells of every table row of a method."""
    plain = markdown.replace("\N{NO-BREAK SPACE}", " ")
    lines = [line.strip("| ").split(" | ") for line in plain.splitlines() if line.startswith(f"| {method} |")]
    assert lines
    return lines


def test_markdown_writes_what_the_table_holds(by_hand: pd.DataFrame) -> None:
    costs = pd.DataFrame([("complete", "HyperMM", np.nan, 75.0, 1234.4, 5e6)], columns=["scenario", "method", *COSTS])
    found = comparison_table(by_hand, costs=costs)
    page = comparison_markdown(found, published_rows("ADNI"), cohort="the demo")
    row = found.iloc[0]
    scores, probabilities, price = cells(page, "HyperMM")
    assert scores[1] == "8"
    assert scores[2] == f"1.00 ± 0.00 [{row['auc_low']:.2f}, {row['auc_high']:.2f}]"
    assert scores[3].startswith("0.88 ± 0.18 [")
    assert scores[4] == "0.73 ± 0.02"  # the paper's, beside ours of rounded scores
    limits = (f"[{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]" for name in ("log_loss", "brier"))
    losses = (f"{row[f'{name}_mean']:.3f}" for name in ("log_loss", "brier"))
    expected = (f"{loss} {limit}" for loss, limit in zip(losses, limits, strict=True))
    assert probabilities == ["HyperMM", *expected, f"{row['ece']:.3f}"]
    assert price == ["HyperMM", "1 min 15 s", "1,234 MB", "5,000,000"]
    _, difference, _, _ = cells(page, "Multi-CNN")
    assert difference[2] == "-0.50"  # three subjects, one of a class alone: no interval
    nothing = cells(page, "pix2pix")
    assert nothing[0][1:4] == ["0", "–", "–"]
    assert nothing[2][1:] == ["–", "–", "–"]
    assert "pix2pix: no predictions." in page


def test_nobody_can_take_the_published_figures_for_ours(by_hand: pd.DataFrame) -> None:
    found = comparison_table(by_hand)
    page = comparison_markdown(found, published_rows("ADNI"), cohort="the demo")
    assert "Ours: the demo, 8 test predictions of 4 test subjects." in page
    assert "Published: ADNI, 300 subjects (165 CN, 135 AD)" in page
    assert "Those are other patients" in page
    assert "| Paper, ADNI, 300 subjects: “AUC” (rounded) |" in page
    assert "In the paper and not here: Uni-CNN PET, Uni-CNN MRI, Multi-VAE, HyperMM w/o 2 steps." in page
    alone = comparison_markdown(found, cohort="the demo")
    assert "aper" not in alone
    assert "ADNI" not in alone


def test_every_row_of_a_markdown_table_has_the_cells_of_its_header(table: pd.DataFrame) -> None:
    odd = table.assign(method=table["method"].replace("Uni-CNN", "a|b\n*c*"))
    page = comparison_markdown(odd, published_rows("ADNI"), cohort="c|d")
    assert r"a\|b \*c\*" in page
    widths = [len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0 for line in page.splitlines()]
    assert sum(width > 0 for width in widths) > 10
    assert all(a == b or 0 in (a, b) for a, b in zip(widths, widths[1:], strict=False))
    assert page.count("### ") == 2


class Nesting(HTMLParser):
    """Checks that tags nest, and collects words and tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"img", "meta"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _html(comparison: Comparison) -> str:
    return environment().get_template("comparison.html.j2").render(comparison=comparison_section(comparison))


def test_html_holds_the_same_words_and_escapes_names(table: pd.DataFrame) -> None:
    evil = table.assign(method=table["method"].replace("Uni-CNN", "<b>evil</b>"))
    html = _html(Comparison(evil, "this cohort", published_rows("ADNI")))
    page = Nesting(html)
    assert page.open == []
    assert "<b>" not in html
    assert "<b>evil</b>" in page.text
    assert "Paper, ADNI, 300 subjects" in page.text
    assert "no predictions: nobody has both scans" in page.text
    assert page.tags.count("table") == 4 + 3  # scores, differences, probabilities, costs; no costs of the second
    assert "No method was compared" in Nesting(_html(Comparison(table.iloc[:0], "x"))).text


def test_a_comparison_from_before_has_no_table_of_probabilities(table: pd.DataFrame) -> None:
    assert "| Calibration error |" in comparison_markdown(table, cohort="x")
    lacking = [name for name in table.columns if name == "ece" or name.startswith(("log_loss", "brier"))]
    assert "Calibration error" not in comparison_markdown(table.drop(columns=lacking), cohort="x")


def test_a_table_without_its_columns_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"the comparison lacks the column\(s\) n_shared"):
        comparison_markdown(table.drop(columns="n_shared"), cohort="x")


def test_the_report_has_the_section_only_where_there_is_a_comparison(report_data, table: pd.DataFrame) -> None:
    data = report_data()
    without = render_report(data)
    assert "Comparison of methods" not in without
    points = robustness_table(_hidden(seed=0))
    picture = imputation_figure({"PET": {"real": _ball(), "cycleGAN": _ball()}})
    curve = patients_table(_fewer_patients(), {"few": 10.0, "all": 40.0})
    reasons = mechanisms_table(_for_reasons())
    comparison = Comparison(
        table, "demo", robustness=points, patients=curve, mechanisms=reasons,
        imputations=(("PET of sub-001", picture),),
    )  # fmt: skip
    html = render_report(dataclasses.replace(data, comparison=comparison))
    page = Nesting(html)
    assert page.open == []
    assert html.count('<a href="#comparison">') == html.count('<section id="comparison">') == 1
    assert page.tags.count("img") == Nesting(without).tags.count("img") + 4
    assert "Lost in training by" in page.text
    assert "PET of sub-001" in page.text


# --- Figures ---


def _hidden(seed: int) -> pd.DataFrame:
    """Two methods that lose MRI at rising rates; Multi-CNN can take nobody at the highest."""
    generator, frames = np.random.default_rng(seed), []
    truth = np.arange(40) % 2
    for method in ("HyperMM", "Multi-CNN"):
        for rate in (0.9, 0.0, 0.5):
            scores = 1 / (1 + np.exp(-(2 * truth - 1) * (1 - rate) * 2 - generator.normal(size=40)))
            lost = generator.random(40) < rate if method == "Multi-CNN" else np.zeros(40, bool)
            lost |= method == "Multi-CNN" and rate == 0.9
            scores = np.where(lost, np.nan, scores)
            frame = pd.DataFrame({"subject": [f"s{i}" for i in range(40)], "truth": truth, "p_0": 1 - scores})
            frame = frame.assign(p_1=scores, observation=frame["subject"], repeat=1, method=method, rate=rate)
            frames.append(frame.assign(hidden_modality="MRI", where="test"))
    return pd.concat(frames, ignore_index=True)


def _fewer_patients() -> pd.DataFrame:
    """Scenarios in which two methods become worse; Multi-CNN can take nobody in the worst."""
    hidden, rates = _hidden(seed=1), {"all": 0.0, "half": 0.5, "few": 0.9, "elsewhere": 0.0}
    return pd.concat([hidden[hidden["rate"] == rate].assign(scenario=name) for name, rate in rates.items()])


def test_a_learning_curve_has_a_point_for_each_number_of_training_patients() -> None:
    frame = _fewer_patients()
    points = patients_table(frame, {"half": 20.0, "few": 10.0, "all": 40.0})
    assert points[["method", "training_patients"]].to_numpy().tolist() == [
        *(["HyperMM", n] for n in (10.0, 20.0, 40.0)),
        *(["Multi-CNN", n] for n in (20.0, 40.0)),  # it can take nobody where most is hidden
    ]
    for row in points.itertuples():
        name = {10.0: "few", 20.0: "half", 40.0: "all"}[row.training_patients]
        made = frame[(frame["method"] == row.method) & (frame["scenario"] == name)].dropna(subset=["p_1"])
        assert row.n == len(made)
        assert row.n_asked == 40
        assert row.auc_mean == pytest.approx(roc_auc_score(made["truth"], made["p_1"]))
        assert row.auc_low <= row.auc_mean <= row.auc_high


def _for_reasons() -> pd.DataFrame:
    """Two methods, two reasons in training and three tests; Multi-CNN can take nobody, and half, and all."""
    frames = []
    for method in ("HyperMM", "Multi-CNN"):
        for training in ("random", "class"):
            for tested, made in (("nothing", 40), ("random", 20), ("class", 0)):
                frame = _hidden(seed=len(frames)).query("method == 'HyperMM' and rate == 0.5")
                lost = np.arange(40) >= (40 if method == "HyperMM" else made)
                frame = frame.assign(p_0=frame["p_0"].mask(lost), p_1=frame["p_1"].mask(lost), method=method)
                frames.append(frame.assign(training=training, tested=tested))
    return pd.concat(frames, ignore_index=True)


def test_every_reason_in_training_has_a_cell_for_every_reason_in_the_test() -> None:
    frame = _for_reasons()
    table = mechanisms_table(frame)
    assert len(table) == 2 * 2 * 3
    for row in table.itertuples():
        asked = frame.query("method == @row.method and training == @row.training and tested == @row.tested")
        made = asked.dropna(subset=["p_1"])
        assert (row.n, row.n_asked) == (len(made), 40)
        if len(made):
            assert row.auc_mean == pytest.approx(roc_auc_score(made["truth"], made["p_1"]))
        else:
            assert np.isnan(row.auc_mean)
    text = mechanisms_text(table)
    assert text.headers == ("Method", "Lost in training by", "Test: nothing", "Test: random", "Test: class")
    assert [row[:2] for row in text.rows] == [
        ("HyperMM", "random"), ("HyperMM", "class"), ("Multi-CNN", "random"), ("Multi-CNN", "class"),
    ]  # fmt: skip
    assert text.rows[2][4] == "–"
    assert text.rows[2][3].endswith("], n 20 of 40")
    assert " n " not in text.rows[0][3]
    assert mechanisms_figure(table) == mechanisms_figure(table)


def test_points_of_the_curve_are_auc_on_what_could_be_predicted() -> None:
    frame = _hidden(seed=1)
    points = robustness_table(frame)
    assert list(points["method"]) == ["HyperMM"] * 3 + ["Multi-CNN"] * 3
    assert list(points["rate"]) == [0.0, 0.5, 0.9] * 2
    rows = frame[(frame["method"] == "Multi-CNN") & (frame["rate"] == 0.5)].dropna()
    wins = [(a > b) + (a == b) / 2 for a in rows.loc[rows.truth == 1, "p_1"] for b in rows.loc[rows.truth == 0, "p_1"]]
    point = points.iloc[4]
    assert (point["n"], point["n_asked"]) == (len(rows), 40)
    assert point["auc_mean"] == pytest.approx(np.mean(wins))
    assert point["auc_low"] <= point["auc_mean"] <= point["auc_high"]
    assert points.iloc[5]["n"] == 0
    assert np.isnan(points.iloc[5]["auc_mean"])


def test_a_curve_that_makes_no_sense_is_refused() -> None:
    frame = _hidden(seed=0)
    with pytest.raises(ValueError, match=r"lack the column\(s\) hidden_modality"):
        robustness_table(frame.drop(columns="hidden_modality"))
    with pytest.raises(ValueError, match="where is 'train'; expected one of test, both"):
        robustness_table(frame.assign(where="train"))
    with pytest.raises(ValueError, match="rate is 1.0; expected a share"):
        robustness_table(frame.assign(rate=1.0))


def test_the_robustness_figure_is_the_same_bytes_each_time_and_shows_the_points() -> None:
    points = robustness_table(_hidden(seed=0))
    both = pd.concat([points, points.assign(where="both"), points.assign(hidden_modality="$PET_<b>")])
    first = robustness_figure(both)
    assert first == robustness_figure(both.copy())
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert first != robustness_figure(both.assign(auc_mean=both["auc_mean"] - 0.1))
    nothing = points.assign(auc_mean=np.nan, auc_low=np.nan, auc_high=np.nan)
    assert robustness_figure(nothing)


def _ball(radius: float = 6.0, brightness: float = 100.0) -> np.ndarray:
    x, y, z = np.indices((24, 20, 16))
    return brightness * (np.hypot(np.hypot(x - 12, y - 10), z - 8) < radius).astype(np.float32)


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"), dtype=float)


def test_imputed_scans_stand_beside_the_real_one_in_its_greys() -> None:
    real, dark = _ball(), _ball(brightness=50)
    rows = {"MRI": {"real": real, "pix2pix": dark}, "PET": {"real": real, "pix2pix": real}}
    png = imputation_figure(rows)
    assert png == imputation_figure(rows)
    pixels = _pixels(png)
    height, width = pixels.shape
    quarters = {
        (row, column): pixels[row * height // 2 :, column * width // 2 :][: height // 2, : width // 2]
        for row in (0, 1)
        for column in (0, 1)
    }
    grey = {place: np.sum((part > 110) & (part < 145)) for place, part in quarters.items()}
    assert grey[0, 1] > 10 * max(grey[0, 0], grey[1, 0], grey[1, 1])  # half as bright is shown half as bright
    assert png != imputation_figure({name: {"real": real, "pix2pix": real} for name in rows})


def test_imputed_scans_are_shown_as_radiologists_look_at_them() -> None:
    """A volume that is bright on the patient's left: on the right of the coronal and axial plane, with letters."""
    half = np.tile(np.linspace(255, 0, 24)[:, None, None], (1, 20, 16))  # RAS: left is the first voxel
    for convention, sign in (("radiological", 1), ("neurological", -1)):
        pixels = _pixels(imputation_figure({"MRI": {"real": half}}, convention=convention))
        axial = pixels[:, pixels.shape[1] * 3 // 4 :].astype(float)
        rows = axial[len(axial) // 3 : len(axial) // 2 - 8]
        middle = rows.shape[1] // 2
        assert sign * (rows[:, middle + 5 : middle + 30].mean() - rows[:, middle - 30 : middle - 5].mean()) > 20
    dark = {"MRI": {"real": np.zeros((24, 20, 16))}}
    plain, turned = (_pixels(imputation_figure(dark, convention=c)) for c in ("radiological", "neurological"))
    assert ((plain > 200) & (turned < 100)).any()  # R and L, A and P have changed places


def test_voxels_that_are_not_cubes_are_drawn_in_millimetres() -> None:
    def box(png: bytes) -> tuple[int, int]:
        """Height and width of the dark frame of the last plane, (x, y) of 24 by 20 voxels."""
        parts, _ = ndimage.label(_pixels(png) < 40)
        rows, columns = np.nonzero(parts == parts[:, np.nonzero(parts)[1].max()].max())
        return int(np.ptp(rows)), int(np.ptp(columns))

    volume = {"MRI": {"real": _ball()}}
    (height, width), (tall, narrow) = (box(imputation_figure(volume, spacing_mm=(1, mm, 1))) for mm in (1, 3))
    assert height / width == pytest.approx(20 / 24, abs=0.06)
    assert tall / narrow == pytest.approx(3 * 20 / 24, abs=0.15)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "there is nothing to show"),
        ({"MRI": {}}, "there is nothing to show"),
        ({"MRI": {"real": _ball()}, "PET": {"other": _ball()}}, r"row 'PET' has the columns \['other'\]"),
        ({"MRI": {"real": _ball(), "pix2pix": _ball()[:-1]}}, r"MRI, pix2pix: shape \(23, 20, 16\); expected"),
        ({"MRI": {"real": _ball()[0]}}, r"MRI, real: shape \(20, 16\)"),
        ({"MRI": {"real": _ball() * np.nan}}, "MRI, real: some voxels are not finite"),
    ],
)
def test_volumes_that_cannot_be_shown_are_refused(rows: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        imputation_figure(rows)


def test_a_method_that_makes_use_of_which_scans_there_are_is_named() -> None:
    row = {
        "method": "HyperMM", "reason": "class", "n": 49, "auc": 0.84, "random_auc": 0.7, "learnt": 0.14,
        "learnt_low": 0.02, "learnt_high": 0.26, "learnt_p": 0.02, "learnt_p_holm": 0.04,
        "shuffled_auc": np.nan, "within": np.nan, "within_low": np.nan,
        "within_high": np.nan,
    }  # fmt: skip
    one, offers = pattern_sentences(pd.DataFrame([row]))
    assert "HyperMM makes use of which scans there are: where class decides" in one
    assert "AUC 0.84 against 0.70 when it could not learn that (+0.14 [+0.02 to +0.26]; p 0.04, corrected" in one
    assert "classify.modality_dropout" in offers
    assert "split.missing" in offers
    assert pattern_sentences(pd.DataFrame([row | {"learnt_p_holm": 0.16}])) == []  # one of eight, and no more
    assert pattern_sentences(pd.DataFrame([row | {"learnt": -0.14}])) == []
    assert len(pattern_sentences(pd.DataFrame([row | {"method": "availability only"}]))) == 1  # it is meant to
    assert pattern_text(pd.DataFrame([row])).rows == (
        ("HyperMM", "class", "49", "0.84", "0.70", "+0.14 [+0.02 to +0.26]", "–", "–"),
    )
