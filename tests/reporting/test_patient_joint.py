"""The section on the joint model says what is imputed, how sure it is, and what it would do to the answer."""

from typing import Any

import numpy as np
import pytest

from reporting.formatting import percent
from reporting.imputed_figures import _box, _planes, imputed_figure
from reporting.joint_figures import patient_map_figure
from reporting.pages import environment
from reporting.patient_joint import MissingImage, PatientJoint, patient_joint_section

CONTENT = {"classes": ["CN", "<AD>"]}
PATIENT = {"subject": "<b>x</b>", "session": "", "probabilities": {"CN": 0.3, "<AD>": 0.7}}
SPREAD = {
    "CN": {"mean": 0.35, "low": 0.1, "high": 0.4, "leads": 0.0},
    "<AD>": {"mean": 0.65, "low": 0.6, "high": 0.9, "leads": 1.0},
}


def page(*, image: bool = True, **changes: Any) -> PatientJoint:
    facts = {
        "embedding": {"mean": [0.5, -1.0, 0.2], "covariance": (np.eye(3) * 0.2).tolist()},
        "distance": 1.1, "share_farther": 0.4, "n": 30,
        "imputed": [{"modality": "PET", "from": ["MRI"], "covariates": [], "told": 0.31, "draws": 50, "image": image}],
        "answer": {"draws": 50, "probabilities": SPREAD, "sd_between_draws": 0.1, "sd_within_draws": 0.4},
    }  # fmt: skip
    sd = np.full((8, 9, 7), 0.2, dtype=np.float32)
    picture = MissingImage("PET", 2 * sd, sd, np.stack([sd, sd, sd]))
    means = np.array([[0.0, 1.0], [-1.0, 0.5]])
    return PatientJoint(facts | changes, means, np.eye(2) / 2, 20, [picture] if image else [], ("age",))


def html(given: PatientJoint) -> str:
    section = patient_joint_section(given, PATIENT, CONTENT, convention="radiological")
    return environment().get_template("patient_joint.html.j2").render(joint=section)


def test_the_section_says_what_was_imputed_from_what_and_that_it_is_imputed() -> None:
    text = html(page())
    assert "What the PET may have looked like, and where we do not know" in text
    assert "Imputed, never measured." in text
    assert "MRI tells 31 % of the variance in which PET scans differ" in text
    assert text.count("data:image/svg+xml") == 2
    assert "left open too: age" in text
    assert "<AD>" not in text.replace("&lt;AD&gt;", "")


def test_scans_are_told_apart_from_covariates() -> None:
    entry = {"modality": "PET", "from": ["MRI", "age"], "covariates": ["age"], "told": 0.31, "draws": 50, "image": True}
    words = "MRI tells 31 % of the variance in which PET scans of patients of the same age differ"
    assert words in html(page(imputed=[entry]))


def test_without_a_decoder_there_are_words_in_place_of_a_picture() -> None:
    text = html(page(image=False))
    assert text.count("data:image/svg+xml") == 1
    assert "this model carries no decoder for PET" in text


def test_hypermm_s_own_answer_stands_beside_those_with_drawn_scans() -> None:
    section = patient_joint_section(page(), PATIENT, CONTENT, convention="radiological")
    cells = [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in section["answer"].rows]
    assert cells == [["CN", "30 %", "35 %", "10 % to 40 %"], ["<AD>", "70 %", "65 %", "60 % to 90 %"]]


@pytest.mark.parametrize(
    ("leads", "words"),
    [
        (0.98, f"leads whatever the missing scans would have shown: in {percent(0.98)} of"),
        (0.9, f"could have changed the answer: <AD> leads in {percent(0.9)} of these draws"),
    ],
)
def test_the_verdict_says_whether_another_class_could_lead(leads: float, words: str) -> None:
    """Quantiles are of different draws, and of three classes tell nothing of who leads: here they overlap."""
    spread = {**SPREAD, "<AD>": {**SPREAD["<AD>"], "low": 0.3, "leads": leads}}
    answer = {"draws": 50, "probabilities": spread, "sd_between_draws": 0.1, "sd_within_draws": 0.4}
    assert words in patient_joint_section(page(answer=answer), PATIENT, CONTENT, convention="radiological")["verdict"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Not far from them: of this patient and 30 held-out ones, 40 % lie as far or farther"),
        ({"share_farther": 1 / 31}, "Far from them: of this patient and 30 held-out ones, 3.2 % lie as far or farther"),
        ({"n": 5}, "5 held-out patients are too few to say whether that is far"),
        ({"distance": None}, "not known, for want of a scan"),
    ],
)
def test_the_distance_is_told_in_words(changes: dict[str, Any], words: str) -> None:
    section = patient_joint_section(page(**changes), PATIENT, CONTENT, convention="radiological")
    assert words in section["distance"]


def test_with_a_reason_there_is_nothing_else() -> None:
    given = PatientJoint({"reason": "no finite numbers"}, np.zeros((2, 2)), np.eye(2), 20)
    assert html(given).strip() == "<p>no finite numbers.</p>"


def test_the_planes_have_the_patient_s_right_where_the_convention_says() -> None:
    """A bright voxel at the right, in front, on top (RAS+: at high indices)."""
    volume = np.zeros((6, 5, 4), dtype=np.float32)
    volume[5, 4, 3] = 1
    volume[3, 4, 3] = volume[5, 2, 3] = volume[5, 4, 2] = 1  # seen from the three sides
    sagittal, coronal, axial = _planes(volume, "radiological")
    assert (sagittal.shape, coronal.shape, axial.shape) == ((4, 5), (4, 6), (5, 6))
    assert sagittal[0, 0] == 1  # up and in front: top left
    assert coronal[0, 0] == 1  # up and right: top left
    assert axial[0, 0] == 1  # in front and right: top left
    _, coronal, axial = _planes(volume, "neurological")
    assert (coronal[0, -1], axial[0, -1]) == (1, 1)


def test_only_the_head_is_shown_and_pictures_have_no_planes() -> None:
    volume = np.zeros((6, 5, 4), dtype=np.float32)
    assert volume[_box(volume)].shape == (6, 5, 4)
    volume[1:4, 2, 0:2] = 1
    assert volume[_box(volume)].shape == (3, 1, 2)
    flat = np.full((6, 6, 3), 0.5, dtype=np.float32)
    assert imputed_figure(flat, flat / 9, np.stack([flat] * 3), "radiological").startswith(b"<?xml")


def test_a_class_without_training_patients_is_not_on_the_map() -> None:
    means = np.array([[0.0, 1.0], [np.nan, np.nan]])
    drawn = patient_map_figure(means, np.eye(2), ["CN", "AD"], np.zeros(2), np.eye(2) / 9, "x").decode()
    assert "CN, mean in training" in drawn
    assert "AD, mean" not in drawn
