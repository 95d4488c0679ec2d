"""The patients that a report shows: most wrong, most unsure, most certain."""

import dataclasses

import pandas as pd

from reporting.report import render_report
from reporting.telling_patients import Scan, telling_patients


def predictions(*rows: tuple[int, str, int, float]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "repeat": repeat, "subject": name[:1], "observation": name, "truth": truth, "p_0": 1 - p, "p_1": p,
                "scans_used": f"{name}_MRI;{name}_PET" if repeat else f"{name}_MRI",
            }
            for repeat, name, truth, p in rows
        ]
    )  # fmt: skip


ROWS = predictions(
    (0, "a", 0, 0.90), (0, "b", 0, 0.70), (0, "c", 1, 0.52), (0, "d", 1, 0.99), (0, "e", 0, 0.03),
    (0, "f", 1, 0.20), (1, "f", 1, 0.90), (0, "g", 1, 0.47),
)  # fmt: skip


def test_who_is_chosen_and_in_which_order() -> None:
    chosen = telling_patients(ROWS, 2)
    assert [(p.kind, p.observation) for p in chosen] == [
        ("wrong", "a"), ("wrong", "b"), ("unsure", "c"), ("unsure", "g"), ("certain", "d"), ("certain", "e"),
    ]  # fmt: skip
    assert (chosen[0].truth, chosen[0].decision, chosen[0].probabilities[1]) == (0, 1, 0.9)


def test_repeats_of_a_patient_are_averaged_and_scans_named_once() -> None:
    chosen = {p.observation: p for p in telling_patients(ROWS, 9)}
    assert len(chosen) == 7
    f = chosen["f"]
    assert (f.decision, round(f.probabilities[1], 3), f.repeats) == (1, 0.55, 2)
    assert f.scans == (Scan("f_MRI"), Scan("f_PET"))
    assert telling_patients(ROWS, 0) == ()
    assert telling_patients(ROWS.iloc[:0], 3) == ()


def test_a_model_without_errors_has_no_wrong_patients() -> None:
    kinds = [p.kind for p in telling_patients(predictions((0, "a", 0, 0.1), (0, "b", 1, 0.8)), 1)]
    assert kinds == ["unsure", "certain"]


def test_the_report_shows_them_with_pictures_and_links(report_data) -> None:
    data = report_data()
    chosen = telling_patients(data.predictions, 1)
    scans = (Scan("x_MRI", "MRI", b"png", "viewer/x_MRI.html"), Scan("<b>", "PET"))
    html = render_report(dataclasses.replace(data, patients=tuple(dataclasses.replace(p, scans=scans) for p in chosen)))
    for title in ("Most wrong", "Most unsure", "Most certain"):
        assert f"<h3>{title}</h3>" in html
    assert html.count('<a href="viewer/x_MRI.html">all slices</a>') == len(chosen) == 3
    assert "&lt;b&gt; (PET): no picture was made" in html
    assert "send that along" in html
    assert f"<strong>{chosen[0].observation}</strong>" in html
    truth, decision = (data.classes[k] for k in (chosen[0].truth, chosen[0].decision))
    assert f"Truth {truth}, decision {decision} (wrong)" in html
    assert "No patient is shown." in render_report(data)
