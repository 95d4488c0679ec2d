"""The report's section on the joint model."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from reporting.formatting import percent
from reporting.imputed_figures import ImputedBeside, beside_figure
from reporting.joint_page import Joint, joint_section
from reporting.pages import environment


def page(count: int = 24, held: float = 0.9, better: float = 0.8, **changes: object) -> Joint:
    random = np.random.default_rng(0)
    names = [f"s{i:02d}" for i in range(count)]
    alone = np.arange(count) % 3 == 0
    table = pd.DataFrame(
        {
            "repeat": 1, "observation": names, "subject": names,
            "split": np.array(["train", "test"])[np.arange(count) % 2],
            "label": np.array(["well", "<ill>"])[np.arange(count) % 2], "has": np.where(alone, "MRI", "MRI+PET"),
            "distance": 1.0, "outside": 1.1, "e1": random.standard_normal(count), "e2": random.standard_normal(count),
            "sd1": 0.5 * alone, "sd2": 0.3 * alone, "cov_1_2": 0.05 * alone,
        }
    )  # fmt: skip
    quality = pd.DataFrame(
        {
            "repeat": 1, "modality": "PET", "observation": names, "from": "MRI", "crps": better, "crps_without": 1.0,
            "cover_50": 0.5, "cover_80": 0.8, "cover_90": held, "cover_95": 0.95,
        }
    )  # fmt: skip
    imputed = pd.DataFrame({"repeat": 1, "observation": ["s00", "s03"], "modality": "PET", "from": "MRI", "sd": 0.4})
    given = {
        "embeddings": table, "site": None, "shared": 2, "blocks": {"MRI": 8, "PET": 7}, "imputed": imputed,
        "quality": quality,
    }  # fmt: skip
    return Joint(**given | changes)  # type: ignore[arg-type]


def html(joint: Joint) -> str:
    return environment().get_template("joint.html.j2").render(joint=joint_section(joint))


def test_the_section_shows_map_patterns_and_imputed_scans() -> None:
    text = html(page())
    assert "data:image/svg+xml" in text
    assert "MRI 8, PET 7 scores" in text
    assert "90 % interval held" in text
    assert "Imputed values were never measured" in text
    assert "<ill>" not in text
    section = joint_section(page())
    assert section["patterns"].rows[0][:3] == ("MRI", "8", "0.58")
    assert section["patterns"].rows[1][2] == "0.00"
    assert section["imputed"].rows == (("PET", "2", "24", "50%", "80%", "90%", "95%", "0.800", "1.000"),) or section[
        "imputed"
    ].rows[0][:3] == ("PET", "2", "24")


@pytest.mark.parametrize(
    ("held", "better", "words"),
    [
        (0.9, 0.8, "as promised. Against a guess that sees no scan, the other scans bring the error (CRPS) down by 20"),
        (0.7, 0.8, "too narrow: do not trust them"),
        (0.99, 0.8, "wider than needed"),
        (0.9, 1.0, "the other scans tell nothing of the missing one"),
    ],
)
def test_the_verdict_says_what_the_figures_say(held: float, better: float, words: str) -> None:
    assert words in joint_section(page(held=held, better=better))["verdict"]


def test_what_the_guess_without_scans_knows_is_named() -> None:
    assert (
        "Against a guess that sees age and sex but no scan, the other scans bring"
        in joint_section(page(covariates=("age", "sex")))["verdict"]
    )


def beside(modality: str, shape: tuple[int, ...], name: str = "s01") -> ImputedBeside:
    """A hidden scan that was brighter than the best guess."""
    mean = np.full(shape, 0.4, dtype=np.float32)
    return ImputedBeside(
        name, modality, "MRI", mean + 0.1, mean, mean / 4, np.stack([mean, mean + 0.02]), error=0.1, error_without=0.2
    )


def test_imputed_scans_are_shown_beside_real_ones_with_how_far_they_were_off() -> None:
    volumes = [beside("PET", (8, 9, 7), name) for name in ("s01", "s<3>")]
    given = page(beside=(*volumes, beside("eye", (16, 16, 3))))
    figures = given.quality.assign(image_error=0.1, image_error_without=0.2, image_cover_90=0.88)  # type: ignore[union-attr]
    given = dataclasses.replace(given, quality=figures)
    section = joint_section(given)
    assert [name for name, _, _ in section["beside"]] == ["PET", "eye"]
    assert section["beside"][0][2] == (
        "s01 from MRI: best guess 0.100 off, the mean training scan 0.200; "
        "s<3> from MRI: best guess 0.100 off, the mean training scan 0.200"
    )
    assert section["images"].rows == (("PET", "24", "0.100", "0.200", percent(0.88)),)
    assert section["image_verdict"].endswith(f"PET: in 24 of 24 scans, {percent(0.5)} less error on average.")
    text = html(given)
    assert "Imputed beside real scans, and where we do not know" in text
    assert "s<3>" not in text
    worse = dataclasses.replace(given, quality=figures.assign(image_error=0.3))
    assert f"in 0 of 24 scans, {percent(0.5)} more error" in joint_section(worse)["image_verdict"]
    assert joint_section(dataclasses.replace(given, quality=figures.head(5)))["image_verdict"] == ""


def test_without_images_nothing_is_said_of_them() -> None:
    assert joint_section(page())["images"] is None
    assert "Imputed beside real scans" not in html(page())


def test_the_map_of_what_nobody_knows_has_the_scale_of_how_far_it_was_off(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, float]] = []
    usual = Axes.imshow

    def record(axes: Axes, tile: np.ndarray, **options: Any) -> Any:
        shown.append((options["cmap"], options["vmax"]))
        return usual(axes, tile, **options)

    monkeypatch.setattr(Axes, "imshow", record)
    assert beside_figure([beside("PET", (8, 9, 7))], "radiological").startswith(b"<?xml")
    assert [cmap for cmap, _ in shown[:6]] == ["gray", "gray", "magma", "magma", "gray", "gray"]
    assert len(shown) == 12  # coronal and axial
    assert {round(top, 6) for cmap, top in shown if cmap == "magma"} == {0.1}


def test_few_patients_make_no_claim() -> None:
    assert joint_section(page(6))["verdict"].endswith("with 6 patients that says little.")


def test_patients_are_counted_and_not_their_sessions() -> None:
    given = page()
    two = given.embeddings["subject"].map(lambda name: f"p{int(name[1:]) % 2}")
    assert given.quality is not None
    quality = given.quality.assign(subject=two, image_error=0.1, image_error_without=0.2, image_cover_90=0.9)
    section = joint_section(page(quality=quality, embeddings=given.embeddings.assign(subject=two)))
    assert section["verdict"].endswith("with 2 patients that says little.")
    assert section["image_verdict"] == ""
    assert [row[1] for row in section["patterns"].rows] == ["2", "2"]


def test_moves_of_imputed_scores_have_their_part() -> None:
    none = pd.DataFrame({name: [] for name in ("modality", "conclusion", "moved", "delta")})
    text = html(page(tipping=none, selection=none))
    assert "If scans are missing for what they would have shown" in text
    assert "impute.deltas is empty" in text
    assert "nothing to tip" in html(page(tipping=none, selection=none, imputed=page().imputed.iloc[:0]))  # type: ignore[union-attr]
    assert "for what they would have shown" not in html(page())


def test_without_the_stage_impute_there_is_no_table_of_it() -> None:
    text = html(page(imputed=None, quality=None))
    assert "Imputed feature maps" not in text


def test_sites_are_a_panel_of_their_own_and_notes_are_shown() -> None:
    site = pd.Series({f"s{i:02d}": "AB"[i % 2] for i in range(24)})
    one, other = (joint_section(page(site=each))["map"] for each in (None, site))
    assert len(other) > len(one)
    assert "linked through the class alone" in html(page(notes=("linked through the class alone",)))


def test_the_same_patients_give_the_same_bytes() -> None:
    assert joint_section(page())["map"] == joint_section(page())["map"]


def test_the_engine_that_draws_is_named() -> None:
    assert "those of a diffusion network trained on the same scores for 800 steps" in html(page(steps=800))
    assert "diffusion" not in html(page())
