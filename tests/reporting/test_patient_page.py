"""The pages of patients say what predictions.json says, escape names, load nothing; the table is flat and complete."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from reporting.patient_page import patient_page, worklist_page
from reporting.patient_table import columns, patients_csv
from reporting.patient_text import chance, css_text, points, set_sentence

PNG = b"\x89PNG\r\n\x1a\n-not-decoded-here"
VOID = {"meta", "img"}
EVIL = "<b>sub</b>\"'&;</style>é日"


class Page(HTMLParser):
    """Tags, text, and the cells of every table row; checks that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str, *, columns: int) -> list[str]:
        """The first row of so many cells that starts with `first`."""
        found = [row for row in self.rows if len(row) == columns and row[0].strip() == first]
        return [cell.strip() for cell in found[0]]


def scan(name: str, modality: str, **more: Any) -> dict[str, Any]:
    return {
        "scan": name, "modality": modality, "used": True, "reason": "", "contribution": None, "outlier": None, "map": ""
    } | more  # fmt: skip


def patient(name: str, answer: str | None = "AD", **more: Any) -> dict[str, Any]:
    """A patient with one MRI."""
    return {
        "observation": name, "subject": name, "session": "", "answer": answer, "abstains": answer is None,
        "set": ["CN", "AD"] if answer is None else [answer], "why": "both classes fit" if answer is None else "",
        "calibration_subjects": 27, "probabilities": {"CN": 0.17, "AD": 0.83},
        "uncalibrated": {"CN": 0.08, "AD": 0.92}, "scans": [scan(f"{name}_MRI", "MRI")], "missing": [],
        "out_of_distribution": False, "notes": [],
    } | more  # fmt: skip


def night(*patients: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The content of predictions.json."""
    return {
        "schema": "hypermm-predictions/1",
        "made": {
            "time": "2026-11-24T03:12:44+00:00", "model": "demo", "model_version": "3", "model_sha256": "9f" * 32,
            "software": {"git_commit": "65f2a39", "versions": {"torch": "2.13.0"}},
        },
        "classes": ["CN", "AD"], "modalities": ["MRI", "PET"], "error_rate": 0.1, "temperature": 1.3,
        "patients": list(patients), "refused": [],
    } | more  # fmt: skip


def page_of(content: dict[str, Any], number: int = 0, **more: Any) -> Page:
    return Page(patient_page(content, content["patients"][number], **{"pictures": {}} | more))


FULL = patient(
    "s1",
    scans=[
        scan("s1_MRI", "MRI", contribution={"CN": 0.04, "AD": -0.04},
             outlier={"distance": 31.4, "share_farther": 1 / 41, "n": 40, "flag": True}, map="maps/s1_MRI.nii.gz"),
        scan("s1_MRI2", "MRI", contribution={"CN": -0.4, "AD": 0.4},
             outlier={"distance": 5.0, "share_farther": 0.5, "n": 40, "flag": False}),
        scan("s1_PET", "PET", used=False, reason="the file is cut short"),
    ],
    missing=[{"modality": "PET", "n": 20, "mean_absolute_change": 0.11, "decisions_changed": 0.1,
              "abstentions_resolved": 0.3, "error_rate": 0.15}],
    out_of_distribution=True,
    notes=["voxels of 3.2 mm"],
)  # fmt: skip


def test_answer_and_warning_stand_before_everything_else() -> None:
    page = page_of(night(FULL))
    order = [
        page.text.index(words)
        for words in ("Warning: not like the scans", "The model’s prediction, to be doubted",
                      "Calibrated probability of",
                      "At an error rate of 10 % the set", "not a medical device", "Scans: 2 of 3 used")
    ]  # fmt: skip
    assert order == sorted(order)
    assert (
        "s1_MRI (MRI): Unlike the training scans: of it and 40 held-out scans, 2.4 % lie as far from them or farther"
        in page.text
    )
    assert "s1_MRI2 (MRI): Unlike" not in page.text


def test_what_cannot_be_told_is_not_called_usual() -> None:
    few = patient("s1")
    outlier = {"distance": 9.0, "share_farther": 1 / 13, "n": 12, "flag": None}
    few["scans"] = [scan("m", "MRI", outlier=outlier), scan("p", "PET", outlier={**outlier, "n": 1})]
    page = page_of(night(few))
    for name, said in (("m", "12 held-out scans are too few"), ("p", "1 held-out scan is too few")):
        remark = page.row(name, columns=4)[3]
        assert remark == f"Not known whether it is unlike the training scans: {said} to tell."
    for absent in ("Like the training", "Unlike the training", "Warning", "Held-out scans are"):
        assert absent not in page.text
    assert not [attrs for tag, attrs in page.tags if attrs.get("class") == "flagged"]
    few["scans"][0]["outlier"] |= {"n": 40, "flag": False}
    assert "Held-out scans are" in page_of(night(few)).text
    assert patients_csv(night(few))["out_of_distribution"].to_list() == [False]


def test_a_usual_patient_has_no_warning() -> None:
    html = patient_page(night(patient("s1")), patient("s1"), pictures={})
    page = Page(html)
    assert "Warning" not in page.text
    assert "to be doubted" not in page.text
    assert 'class="warning"' not in html
    assert 'class="flagged"' not in html


def test_abstaining_is_said_first_with_its_reason() -> None:
    page = page_of(night(patient("s1", None)))
    answer = page.text[page.text.index("The model’s prediction") :][:120]
    assert "No prediction: the model abstains" in answer
    assert "both classes fit" in answer
    assert page.row("CN", columns=4)[3] == page.row("AD", columns=4)[3] == "● in the set"
    title = page.text[: page.text.index("HyperMM")]
    assert "s1: abstains" in title


def test_probability_bars_are_as_long_as_the_numbers_beside_them() -> None:
    page = page_of(night(patient("s1")))
    assert page.row("AD", columns=4)[2:] == ["83 %", "● in the set"]
    assert page.row("CN", columns=4)[2:] == ["17 %", "○ not in it"]
    bars = [float(a["width"] or 0) for tag, a in page.tags if tag == "rect" and a["class"] == "share"]
    assert bars == [83.0, 17.0]  # the likeliest first
    assert "Before calibration (temperature 1.3): AD 92 %, CN 8 %" in page.text


def test_contributions_are_signed_bars_on_one_scale() -> None:
    page = page_of(night(FULL))
    rows = [row for row in page.rows if len(row) == 4 and row[3].strip() in ("−4", "+40")]
    assert [(row[0], row[3].strip()) for row in rows] == [("s1_MRI", "−4"), ("s1_MRI2", "+40")]
    bars = [(a["class"], a["x"], a["width"]) for tag, a in page.tags if tag == "rect" and "x" in a]
    drawn = [bar for bar in bars if bar[0] in ("less", "share")]
    assert drawn == [("less", "-5.00", "5.00"), ("share", "0.00", "50.00")]
    assert "The bars reach 40 points" in page.text


def test_small_contributions_do_not_fill_the_bar() -> None:
    quiet = copy.deepcopy(FULL)
    quiet["scans"][1]["contribution"] = {"CN": -0.01, "AD": 0.01}
    page = page_of(night(quiet))
    assert "The bars reach 10 points" in page.text
    widths = [float(a["width"] or 0) for tag, a in page.tags if tag == "rect" and a.get("x") == "0.00"]
    assert widths == [5.0]


def test_a_single_scan_has_no_contribution() -> None:
    assert "One scan was used, so there is nothing to compare it with" in page_of(night(patient("s1"))).text


def test_scans_say_whether_they_were_used_and_why_not() -> None:
    page = page_of(night(FULL))
    assert page.row("s1_PET", columns=4)[1:] == ["PET", "✗ not used", "the file is cut short"]
    assert page.row("s1_MRI2", columns=4)[2].startswith("✓ used")
    assert "maps/s1_MRI.nii.gz" in page.row("s1_MRI", columns=4)[3]


def test_missing_modalities_say_what_they_did_to_others() -> None:
    page = page_of(night(FULL))
    assert page.row("PET", columns=5) == ["PET", "20", "11 points", "10 %", "30 %"]
    assert page.row("Modality added", columns=5)[4] == "Abstentions resolved at 15 %"  # the page is for 10 %
    unknown = page_of(night(patient("s1")))
    assert unknown.row("Modality added", columns=5)[4] == "Abstentions resolved"
    assert unknown.row("PET", columns=5) == ["PET", "0", "not known", "not known", "not known"]
    whole = patient("s1", scans=[scan("a", "MRI"), scan("b", "PET")])
    assert "No modality that the model reads is missing" in page_of(night(whole)).text


def test_pictures_are_in_the_page_with_words() -> None:
    page = page_of(night(FULL), pictures={"s1_PET": PNG, "s1_MRI": PNG})
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [attrs["alt"] for attrs in pictures] == [
        "Quality-control picture of the MRI scan s1_MRI", "Quality-control picture of the PET scan s1_PET"
    ]  # fmt: skip
    assert all((attrs["src"] or "").startswith("data:image/png;base64,") for attrs in pictures)
    assert "No picture was made" in page_of(night(FULL)).text
    assert (
        "the patient’s right is on the left of the picture (radiological convention), as the letters say" in page.text
    )
    other = page_of(night(FULL), pictures={"s1_PET": PNG}, convention="neurological")
    assert "the patient’s left is on the left of the picture (neurological convention)" in other.text


def test_the_picture_of_another_patient_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patient s1: picture or values of s2_MRI, .* \(s1_MRI\); is it"):
        patient_page(night(patient("s1")), patient("s1"), pictures={"s2_MRI": PNG})


def test_a_table_shows_its_values_in_place_of_a_picture() -> None:
    one = patient("s1", scans=[scan("s1_scores", "scores")])
    html = patient_page(night(one), one, pictures={}, values={"s1_scores": {"mmse": 28.5, "<b>": None, "group": "K<1"}})
    assert Page(html).text.count("Values of tables") == 1
    assert "<b>" not in html
    rows = re.findall(r"<tr>(.*?)</tr>", html[html.index('id="values"') :], flags=re.S)[1:4]
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in rows]
    assert cells == [["scores", "mmse", "28.5"], ["scores", "&lt;b&gt;", "missing"], ["scores", "group", "K&lt;1"]]
    assert 'id="values"' not in patient_page(night(FULL), FULL, pictures={})
    with pytest.raises(ValueError, match="picture or values of s2_scores"):
        patient_page(night(one), one, pictures={}, values={"s2_scores": {"mmse": 1.0}})


def test_four_classes_and_twelve_scans() -> None:
    classes = ["a", "b", "c", "d"]
    change = {"a": 0.1, "b": -0.1, "c": 0.02, "d": -0.02}
    scans = [scan(f"s{i}", "40X", contribution=change) for i in range(12)]
    chances = {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}
    one = patient(
        "s1", None, set=["b", "c"], probabilities=chances, uncalibrated=chances, scans=scans, calibration_subjects=44
    )
    page = page_of(night(one, classes=classes, modalities=["40X"]), pictures={s["scan"]: PNG for s in scans})
    assert [row[0] for row in page.rows if len(row) == 4 and row[2].endswith("%")] == ["b", "c", "d", "a"]
    shown = [row for row in page.rows if len(row) == 2 + 2 * 4]
    assert len(shown) == 12
    assert [cell.strip() for cell in shown[0][3::2]] == ["−10", "+2", "−2", "+10"]  # in the order b, c, d, a
    assert sum(tag == "img" for tag, _ in page.tags) == 12


def test_more_classes_than_fit_are_cut_and_said() -> None:
    classes = [f"c{i}" for i in range(8)]
    chances = {name: (i + 1) / 36 for i, name in enumerate(classes)}
    scans = [scan(f"s{i}", "MRI", contribution=dict.fromkeys(classes, 0.0)) for i in range(2)]
    one = patient("s1", "c7", probabilities=chances, uncalibrated=chances, scans=scans)
    text = page_of(night(one, classes=classes)).text
    assert "The most probable 5 classes; 3 more are in predictions.json" in text


@pytest.mark.parametrize("page", ["patient", "night"])
def test_markup_in_names_is_text_and_nothing_is_loaded(page: str) -> None:
    one = patient(EVIL, None, session=EVIL, why=EVIL, notes=[EVIL], set=[EVIL], probabilities={EVIL: 1.0},
                  uncalibrated={EVIL: 1.0},
                  scans=[scan(EVIL, EVIL), scan("x", EVIL, used=False, reason=EVIL)])  # fmt: skip
    refused = [{"observation": EVIL, "subject": EVIL, "reason": EVIL}]
    content = night(one, classes=[EVIL], modalities=[EVIL], refused=refused)
    html = (
        patient_page(content, one, pictures={EVIL: PNG}, worklist_link="../in dex#1.html")
        if page == "patient"
        else worklist_page(content, {EVIL: "javascript:alert('1')/" + EVIL})
    )
    parsed = Page(html)
    assert "<b>" not in html
    assert html.count("</style>") == 1
    assert parsed.text.count(EVIL) >= 8
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    for tag, attrs in parsed.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert (attrs.get("src") or "data:image/").startswith("data:image/")
        if tag == "a":
            assert re.fullmatch(r"[A-Za-z0-9._~/%-]+", attrs["href"] or "")  # no colon: no scheme
    assert not re.search(r"url\(|@import|https?://", html)
    assert ("html", {"lang": "en"}) in parsed.tags
    assert all("scope" in attrs for tag, attrs in parsed.tags if tag == "th")


def test_nothing_is_told_by_the_drawing_alone() -> None:
    page = page_of(night(FULL))
    assert all(attrs["aria-hidden"] == "true" for tag, attrs in page.tags if tag == "svg")
    assert sum(tag == "svg" for tag, _ in page.tags) == 4  # each beside its number, as tested above


def test_the_name_in_the_margin_of_a_printed_page_cannot_leave_its_string() -> None:
    text = css_text('a"} b\n日</style>')
    assert re.fullmatch(r"(?:[A-Za-z0-9]|\\[0-9a-f]{6})*", text)
    assert re.sub(r"\\([0-9a-f]{6})", lambda m: chr(int(m[1], 16)), text) == 'a"} b\n日</style>'
    assert css_text("x" * 500).endswith("\\002026")
    assert len(css_text("x" * 500)) < 80


def test_provenance_says_which_model_and_software() -> None:
    page = page_of(night(FULL))
    rows = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert rows["Model"] == "demo, version 3"
    assert rows["SHA-256 of the model’s checksums.json"] == "9f" * 32
    assert rows["Versions"] == "torch 2.13.0"
    assert "2026-11-24 03:12 UTC" in page.text


@pytest.mark.parametrize(
    ("p", "said"),
    [(0.834, "83 %"), (0.999, "> 99 %"), (1.0, "> 99 %"), (0.0, "< 1 %"), (0.004, "< 1 %"), (float("nan"), "n/a")],
)
def test_no_chance_is_certain(p: float, said: str) -> None:
    assert chance(p) == said.replace(" ", "\N{NO-BREAK SPACE}")


def test_points_have_a_sign() -> None:
    assert [points(x) for x in (0.124, -0.05, 0.001, -0.001)] == ["+12", "−5", "0", "0"]


@pytest.mark.parametrize(
    ("subjects", "error_rate", "promised"), [(9, 0.1, True), (8, 0.1, False), (19, 0.05, True), (18, 0.05, False)]
)
def test_no_rate_is_promised_with_too_few_subjects(subjects: int, error_rate: float, promised: bool) -> None:
    said = set_sentence(patient("s1", calibration_subjects=subjects), error_rate=error_rate)
    assert ("on average. That is no promise for this patient" in said) == promised
    assert ("No error rate can be promised" in said) != promised
    assert promised or f"needs at least {subjects + 1}" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [([], "is empty: no class fits"), (["AD"], "holds AD alone"), (["CN", "AD"], "holds CN and AD: none"),
     (["a", "b", "c"], "holds a, b and c: none")],
)  # fmt: skip
def test_sets_in_words(names: list[str], said: str) -> None:
    assert said in set_sentence(patient("s1", set=names), error_rate=0.1)


def full_night() -> dict[str, Any]:
    return night(
        patient("calm1"),
        patient("lost", scans=[scan("m", "MRI"), scan("p", "PET", used=False)]),
        patient("unsure", None),
        patient("noted", notes=["known to the model"]),
        patient("calm0", "CN"),
        patient("odd", out_of_distribution=True),
        refused=[{"observation": "known", "subject": "known", "reason": "was in training"}],
    )


def test_the_list_shows_warnings_and_abstentions_first() -> None:
    content = full_night()
    page = Page(
        worklist_page(content, {p["observation"]: f"patients/{p['observation']}.html" for p in content["patients"]})
    )
    first = [row[0].strip() for row in page.rows if len(row) in (5, 6) and row[0].strip() != "Patient"]
    assert first == ["odd", "unsure", "lost", "noted", "calm1", "calm0"]
    assert page.row("odd", columns=6)[5] == "⚠ unlike training scans"
    assert page.row("unsure", columns=6)[1:] == ["no prediction", "AD 83 %", "CN, AD", "1 of 1", "abstains"]
    assert page.row("lost", columns=6)[4:] == ["1 of 2", "1 scan not used"]
    links = [unquote(attrs["href"] or "") for tag, attrs in page.tags if tag == "a"]
    assert links == [f"patients/{name}.html" for name in first]
    assert page.row("known", columns=3) == ["known", "known", "was in training"]
    assert page.row("lost", columns=4) == ["lost", "p", "PET", "no reason recorded"]


def test_the_list_counts() -> None:
    html = worklist_page(full_night(), {})
    tiles = re.findall(r'<dt>([^<]+)</dt><dd class="value">([^<]+)</dd>', html)
    assert dict(tiles) == {
        "Patients": "7", "Predicted": "5", "Abstained": "1", "Unlike training": "1", "Refused": "1",
        "Scans not used": "1",
    }  # fmt: skip
    assert "<a " not in html  # no link is made up
    assert "not known for 5 more" in html  # no scan of these was compared


def test_the_list_says_of_how_many_nothing_can_be_told() -> None:
    def outlier(flag: bool | None) -> dict[str, Any]:
        return {"distance": 9.0, "share_farther": 0.04, "n": 12 if flag is None else 40, "flag": flag}

    usual, few = (patient(n, scans=[scan("m", "MRI", outlier=outlier(f))]) for n, f in (("a", False), ("b", None)))
    odd = patient("c", scans=[scan("m", "MRI", outlier=outlier(True)), scan("p", "PET")], out_of_distribution=True)
    tile = 'Unlike training</dt><dd class="value">1</dd><dd>'
    assert f"{tile}not known for 1 more</dd>" in worklist_page(night(usual, few, odd), {})
    assert f"{tile}of those predicted or abstained</dd>" in worklist_page(night(usual, odd), {})


def test_an_empty_worklist_renders() -> None:
    text = Page(worklist_page(night(), {})).text
    assert "No patient was refused" in text
    assert "Every scan was used" in text


def test_the_table_is_flat_and_has_a_row_a_patient() -> None:
    content = full_night()
    content["patients"][0] |= FULL
    frame = patients_csv(content)
    assert tuple(frame.columns) == columns(["CN", "AD"])
    back = pd.read_csv(io.StringIO(frame.to_csv(index=False)), keep_default_na=False, dtype=str)
    assert back["state"].to_list() == ["answered", "answered", "abstained", *3 * ["answered"], "refused"]
    row = back.iloc[0]
    assert row[["subject", "answer", "abstains", "set", "p_CN", "p_AD"]].to_list() == [
        "s1", "AD", "False", "AD", "0.17", "0.83"
    ]  # fmt: skip
    assert row[["scans_used", "scans_failed", "missing", "out_of_distribution"]].to_list() == [
        "s1_MRI;s1_MRI2", "s1_PET", "PET", "True"
    ]  # fmt: skip
    assert row[["model", "model_version", "made", "error_rate", "calibration_subjects", "notes"]].to_list() == [
        "demo", "3", "2026-11-24T03:12:44+00:00", "0.1", "27", "voxels of 3.2 mm"
    ]  # fmt: skip
    assert back.iloc[2][["answer", "set", "why"]].to_list() == ["", "CN;AD", "both classes fit"]
    refused = back.iloc[-1]
    assert refused[["subject", "why", "answer", "abstains", "p_AD", "scans_used", "out_of_distribution"]].to_list() == [
        "known", "was in training", "", "", "", "", ""
    ]  # fmt: skip


def test_a_worklist_without_patients_gives_a_table_with_columns() -> None:
    frame = patients_csv(night())
    assert len(frame) == 0
    assert tuple(frame.columns) == columns(["CN", "AD"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": "hypermm-predictions/2"}, "schema is 'hypermm-predictions/2', this version reads 'hypermm-pred"),
        ({"patients": [{k: v for k, v in FULL.items() if k != "why"}]}, "patient s1 lacks why; found observation"),
        ({"patients": [FULL | {"probabilities": {"CN": 1.0}}]}, "patient s1: probabilities lacks AD; found CN"),
        ({"patients": [FULL | {"probabilities": {"CN": float("nan"), "AD": 1.0}}]}, "of CN is nan; expected a finite"),
        ({"patients": [FULL | {"answer": "MCI"}]}, r"\['MCI'\] are no classes of the model, which has \['CN', 'AD'\]"),
        ({"patients": [FULL | {"abstains": True}]}, "patient s1: abstains is True and the answer is 'AD'"),
        ({"patients": [FULL | {"scans": [{"scan": "q"}]}]}, "patient s1, scan q lacks modality, used"),
        ({"patients": [FULL | {"missing": [{"modality": "PET", "n": 3}]}]}, "patient s1, missing PET lacks mean_abs"),
        ({"patients": [FULL | {"scans": [scan("q", "MRI", outlier={"n": 3})]}]}, "scan q: outlier lacks distance"),
        ({"refused": [{"observation": "r"}]}, "refused patient r lacks subject, reason"),
        ({"made": {"time": "now"}}, "predictions: made lacks model, model_version, model_sha256"),
    ],
)
def test_content_of_another_shape_is_refused_in_words(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        patients_csv(night(FULL) | change)
    with pytest.raises(ValueError, match=said):
        worklist_page(night(FULL) | change, {})


def test_a_scan_with_slices_is_linked() -> None:
    one = patient("sub-1")
    name = one["scans"][0]["scan"]
    made = night(one)
    html = patient_page(made, one, pictures={name: PNG}, slices={name: "../viewer/a b.html"})
    assert '<a href="../viewer/a%20b.html">all slices</a>' in html
    assert "all slices" not in patient_page(made, one, pictures={name: PNG})
