"""What the section on synthetic patients says, in which case."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.generated.judgement import judge
from reporting.report import ReportData, render_report
from reporting.synthetic_page import TILE, Synthetic, figures, sentence, synthetic_section, transfer_sentence, wall

TRANSFER = {
    "n": 79, "real_auc": 0.754, "generated_auc": 0.755, "difference": 0.001, "low": -0.085, "high": 0.087,
    "coherence": 0.758,
}  # fmt: skip


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """A judgement of rows that are as they should be, and one of rows that are too few for some figures."""
    random = np.random.default_rng(0)
    listed = []
    for name, held in (("MRI", 30), ("<PET>", 7)):
        found = judge(*(random.normal(0, 1, (count, 12)) for count in (30, held, 60)))
        listed.append({"space": "features", "modality": name, "findings": found.findings(), **found.as_dict()})
    return {
        "verdict": "passed", "patients": 60, "repeat": 1, "most_copied": 0.05, "judgements": listed,
        "transfer": TRANSFER, "left_out": ["PET: another space"],
    }  # fmt: skip


def test_the_table_has_a_column_a_judgement_and_null_beside_every_frechet_distance(facts: dict[str, Any]) -> None:
    table = figures(facts["judgements"])
    assert table.headers[2:] == ("MRI, features", "<PET>, features")
    cells = {row[0]: row[2:] for row in table.rows}
    frechet = [row for name, row in cells.items() if name.startswith("Fréchet")]
    assert len(frechet) == 2
    assert all("(" in row[0] and ";" in row[0] for row in frechet)
    assert cells["Fréchet distance to held-out scans (of halves of those to each other; 95 % below)"][1] == "too few"
    assert cells["Can a linear classifier tell them from held-out scans? AUC"][1] == "too few"
    assert all(len(row) == len(table.headers) for row in table.rows)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ((), "nothing was found that so many scans could show"),
        (("copies",), "too many copies of training patients"),
        (("near", "narrow"), "nearer to training patients than held-out patients are; varies less than real"),
    ],
)
def test_findings_are_words(facts: dict[str, Any], found: tuple[str, ...], words: str) -> None:
    one = facts["judgements"][0]
    assert words in sentence(one | {"findings": found})


def test_the_probe_is_told_whatever_else_was_found(facts: dict[str, Any]) -> None:
    one = facts["judgements"][0] | {"findings": (), "probe": {"auc": 1.0, "low": 0.97, "high": 1.0}}
    assert "A linear classifier tells them from held-out scans with AUC 1.00" in sentence(one)
    assert "linear classifier" not in sentence(one | {"probe": {"auc": 0.55, "low": 0.45, "high": 0.65}})


def test_transfer_is_told_with_its_interval_or_not_at_all() -> None:
    assert "AUC 0.76; trained on real ones 0.75 (difference +0.00, interval -0.09 to 0.09)" in transfer_sentence(
        TRANSFER | {"generated_auc": 0.7551}
    )
    assert "cannot be said" in transfer_sentence(dict.fromkeys(TRANSFER))


@pytest.mark.parametrize("verdict", ["passed", "copies", "copies accepted"])
def test_the_page_says_synthetic_and_shows_both_walls(
    facts: dict[str, Any], verdict: str, report_data: Callable[..., ReportData]
) -> None:
    tile = np.full((40, 50), 100, np.uint8)
    synthetic = Synthetic(facts | {"verdict": verdict}, (("MRI", wall([tile] * 9), wall([tile] * 9)),))
    page = render_report(dataclasses.replace(report_data(), synthetic=synthetic))
    assert "SYNTHETIC: nobody&#39;s scans" in page
    assert "&lt;PET&gt;, features" in page
    assert 'href="#synthetic"' in page
    said = synthetic_section(synthetic)["verdict"]
    assert said.startswith("Not released") == (verdict == "copies")
    assert 'id="synthetic"' not in render_report(report_data())


def test_the_page_says_what_was_not_judged_and_among_how_many_copies_were_looked_for(
    facts: dict[str, Any], report_data: Callable[..., ReportData]
) -> None:
    only = [{"space": "features", "modality": "CT", "copied": 0.25}]
    synthetic = Synthetic(facts | {"not_judged": ["CT", "US"], "only_searched": only})
    page = render_report(dataclasses.replace(report_data(), synthetic=synthetic))
    assert "Not judged, for want of patients with such scans, and so not released: CT, US." in page
    assert "CT, features: too few patients to be judged; copies were looked for, 25.0 % of the synthetic" in page
    assert "among which copies" not in page
    more = [facts["judgements"][0] | {"searched": 5000}, facts["judgements"][1]]
    cells = {row[0]: row[2:] for row in figures(more).rows}
    assert cells["Synthetic scans among which copies were looked for"] == ("5,000", "60")


def test_a_wall_keeps_the_shape_of_its_pictures() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    pixels = np.asarray(Image.open(io.BytesIO(wall([white] * 3, across=2))))
    assert pixels.shape == (2 * TILE + 4, 2 * TILE + 4, 3)
    assert (pixels[:10, :TILE] == 0).all()  # black above a picture that is wider than high
    assert (pixels[TILE // 2, :TILE] == 255).all()
