"""The page is whole, loads nothing, escapes names, and takes degenerate runs."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from reporting.report import render_report

SECTIONS = {
    "Test results", "Subsets of scans", "ROC and calibration", "Patients to look at", "Cohort and missing scans",
    "Quality control", "Learning curves", "Predictions", "Failures", "Notes", "Plan", "Settings", "Versions and hashes",
}  # fmt: skip
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects what the tests look at, and checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.add(data)


@pytest.fixture(scope="module")
def html(report_data) -> str:
    return render_report(report_data())


def test_every_section_is_there_and_tags_nest(html: str) -> None:
    page = Page(html)
    assert page.headings == SECTIONS
    assert page.open == []
    assert ("html", {"lang": "en"}) in page.tags
    anchors = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert anchors == {f"#{attrs['id']}" for _, attrs in page.tags if "id" in attrs}


def test_verdict_and_disclaimer_stand_before_the_first_table(html: str) -> None:
    top = html[: html.index("<table")]
    number = r"[01]\.\d\d"
    expected = rf"AUC {number} \(95\s% interval {number} to {number}\) on 82 test predictions of 46 subjects, 3 repeats"
    assert re.search(expected, top)
    assert "Research software, not a medical device" in top


def test_nothing_is_loaded_and_nothing_runs(html: str) -> None:
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("src") or "data:image/").startswith("data:image/")
        assert (attrs.get("href") or "#").startswith("#")
    assert not re.search(r"(src|href)\s*=\s*[\"']?\s*(https?:)?//|url\(|@import", html)


def test_pictures_have_words_and_tables_have_headers(html: str) -> None:
    page = Page(html)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == 8 + 6
    assert all(attrs["alt"] for attrs in pictures)
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")


def test_the_same_run_gives_the_same_page(html: str, report_data) -> None:
    assert render_report(report_data()) == html


def test_markup_in_names_is_text(report_data) -> None:
    data = report_data()
    evil = "<b>sub</b>\"'&"
    data = dataclasses.replace(
        data,
        title=evil,
        predictions=data.predictions.assign(subject=evil),
        failures=data.failures.assign(reason="<script>alert(1)</script>"),
        notes=(evil,),
        quality=data.quality.assign(scan=evil, remarks=evil),
        qc=((evil, data.qc[0][1]),),
        settings_yaml=evil,
    )
    html = render_report(data)
    assert "<b>" not in html
    assert "<script" not in html
    assert Page(html).text.count(evil) >= len(data.predictions) + 4


def test_wrong_predictions_are_marked_in_words_and_shade(html: str, report_data) -> None:
    rows = report_data().predictions
    wrong = int(((rows["p_1"] >= 0.5) != (rows["truth"] == 1)).sum())
    assert wrong > 0
    predictions = html[html.index('id="predictions"') :]
    assert predictions.count('class="flagged"') == wrong
    assert html.count("✗") >= wrong


def test_long_prediction_tables_are_cut_and_say_so(report_data) -> None:
    data = report_data()
    many = pd.concat([data.predictions.assign(observation=f"o{i}") for i in range(8)])
    html = render_report(dataclasses.replace(data, predictions=many))
    assert f"The first 500 of {len(many)} test predictions" in html


def test_every_scan_is_in_the_table_of_quality_the_worst_on_top(html: str) -> None:
    section = html[html.index('<section id="qc">') : html.index('<section id="learning">')]
    text = Page(section).text
    assert section.count('<th scope="row"') == 40
    assert text.index("sub-000_v0_MRI") < text.index("sub-001_v0_PET") < text.index("sub-019")
    for words in (
        "Place read from",
        "sform",
        "PSR",
        "1 × 1 × 1.2",
        "−2.5 to 1,870",
        "40 volumes, those to look at first",
    ):
        assert words in text
    assert "sub-000_v0_MRI: Unusual brain volume: 61 ml; 500 to 2,500 are usual." in text  # under its picture
    assert section.count('class="flagged"') == 2


@pytest.mark.parametrize(
    ("convention", "words"),
    [
        ("radiological", "the patient’s right is on the left of the picture (radiological convention)"),
        ("neurological", "the patient’s left is on the left of the picture (neurological convention)"),
    ],
)
def test_the_convention_of_the_pictures_is_said(convention: str, words: str, report_data) -> None:
    data = dataclasses.replace(report_data(), convention=convention)
    assert words in Page(render_report(data)).text
    pictures = dataclasses.replace(data, quality=data.quality.assign(kind="image"))
    assert "convention" not in Page(render_report(pictures)).text.replace(data.settings_yaml, "")


def test_ten_thousand_scans_make_a_page_of_a_few_megabytes(report_data) -> None:
    data = report_data()
    many = pd.concat([data.quality] * 250, ignore_index=True)
    html = render_report(dataclasses.replace(data, quality=many))
    assert "10,000 volumes, those to look at first on top; the first 500 here, all in qc.csv beside this page" in html
    assert len(html) < 5_000_000


def empty_run(data):
    """The run that got nowhere: frames with columns and no rows."""
    names = ("plan", "observations", "availability", "splits", "predictions", "subsets", "failures", "quality")
    frames = {name: getattr(data, name).iloc[:0] for name in names}
    summary = dict.fromkeys(("mean", "std", "low", "high"), None)
    metrics = {"threshold_half": dict.fromkeys(data.metrics["threshold_half"], summary)}
    return dataclasses.replace(
        data, **frames, metrics=metrics, qc=(), histories={}, notes=(), versions={}, hashes={}, run_note=""
    )


def test_an_empty_run_says_what_is_missing(report_data) -> None:
    page = Page(render_report(empty_run(report_data())))
    assert page.headings == SECTIONS
    said = (
        "No test prediction was made",
        "No scan failed.",
        "No quality-control picture",
        "No subset was evaluated",
        "Nothing was trained",
        "No stage gave a warning",
        "No subject was excluded",
    )
    for words in said:
        assert words in page.text


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("modalities", [("MRI",), ("CT", "MRI", "PET", "X$ray")])
def test_other_shapes_of_run_render(n_classes: int, repeats: int, modalities: tuple[str, ...], report_data) -> None:
    page = Page(render_report(report_data(n_classes=n_classes, repeats=repeats, modalities=modalities)))
    assert page.headings == SECTIONS
    assert ("One repeat, so there is no standard deviation" in page.text) == (repeats == 1)
    assert ("Validation threshold" in page.text) == (n_classes == 2)


@pytest.mark.parametrize("missing", [math.nan, None])
def test_undefined_metrics_are_said_in_words(missing: float | None, report_data) -> None:
    data = report_data()
    undefined = {"mean": missing, "std": missing, "low": missing, "high": missing}
    half = data.metrics["threshold_half"] | {"auc": undefined}
    text = Page(render_report(dataclasses.replace(data, metrics=data.metrics | {"threshold_half": half}))).text
    assert "n/a (one class only)" in text
    assert "AUC cannot be computed" in text
    withheld = data.metrics["threshold_half"] | {"auc": undefined | {"mean": 0.7}}
    text = Page(render_report(dataclasses.replace(data, metrics=data.metrics | {"threshold_half": withheld}))).text
    assert "No interval of AUC: a repeat has fewer than two test patients (of a class)." in text


def test_probabilities_that_are_worse_than_the_frequencies_of_the_classes_are_named(report_data) -> None:
    data = report_data()
    known = np.mean([stats.entropy(rows["truth"].value_counts()) for _, rows in data.predictions.groupby("repeat")])
    for loss, named in ((known + 1e-3, True), (known - 1e-3, False)):
        half = data.metrics["threshold_half"] | {"log_loss": {"mean": loss, "low": 0.1, "high": 1.0}}
        page = dataclasses.replace(data, metrics=data.metrics | {"threshold_half": half})
        words = f"The log loss, {loss:.3f}, is above {known:.3f}, that of telling every test patient how frequent"
        assert (words in Page(render_report(page)).text) == named


def test_numpy_and_text_keys_of_repeats_are_taken(report_data) -> None:
    data = report_data()
    metrics = data.metrics | {
        "thresholds": {str(repeat): value for repeat, value in data.metrics["thresholds"].items()}
    }
    assert render_report(dataclasses.replace(data, metrics=metrics)) == render_report(data)


def test_data_that_do_not_fit_are_refused_by_name(report_data) -> None:
    data = report_data()
    with pytest.raises(ValueError, match=r"ReportData.failures lacks the column\(s\) reason"):
        render_report(dataclasses.replace(data, failures=data.failures.drop(columns="reason")))
    histories = {"pretrain": data.histories["pretrain"].drop(columns="best")}
    with pytest.raises(ValueError, match=r"histories\['pretrain'\] lacks the column\(s\) best"):
        render_report(dataclasses.replace(data, histories=histories))
    with pytest.raises(ValueError, match="names 3 classes; predictions have 2"):
        render_report(dataclasses.replace(data, classes=("a", "b", "c")))
    with pytest.raises(ValueError, match=r"state\(s\) \['missing'\]; expected used, hidden or failed"):
        render_report(dataclasses.replace(data, availability=data.availability.assign(state="missing")))
    with pytest.raises(ValueError, match="lacks 'threshold_half'"):
        render_report(dataclasses.replace(data, metrics={}))


def test_a_fit_without_epochs_shows_its_penalties(report_data) -> None:
    losses = {"penalty": [1.0, 0.1, 0.01], "held_out_loss": [0.69, 0.6, 0.7], "best": [False, True, False]}
    history = pd.concat([pd.DataFrame(losses).assign(repeat=repeat) for repeat in (1, 2)], ignore_index=True)
    data = report_data()
    page = render_report(dataclasses.replace(data, histories=data.histories | {"classify": history}))
    assert "Penalty chosen by inner folds: 0.1 (repeat 1), 0.1 (repeat 2). There are no epochs." in Page(page).text
    assert Page(page).text.count("Epoch kept") == len(data.histories) - 1
    with pytest.raises(ValueError, match=r"histories\['classify'\] lacks the column\(s\) best"):
        render_report(dataclasses.replace(data, histories={"classify": history.drop(columns="best")}))


@pytest.mark.parametrize(
    ("classes", "told"), [(2, "log loss 0.69, Brier score 0.25"), (3, "log loss 1.10, Brier score 0.67")]
)
def test_subsets_are_held_against_a_coin(classes: int, told: str, report_data) -> None:
    assert f"same probability has AUC 0.50, {told}" in Page(render_report(report_data(n_classes=classes))).text
