"""The section of a patient's page on the joint model: place on the map, missing scans, the answer's spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reporting import patient_text
from reporting.formatting import count, number, percent
from reporting.imputed_figures import imputed_figure
from reporting.joint_figures import patient_map_figure
from reporting.pages import data_uri
from reporting.tables import Table

FAR = 0.05  # share of held-out patients as far or farther, below which a patient is called far
LEADS = 0.95  # share of draws in which a class leads, from which on the missing scans change nothing
FEWEST = 19  # held-out patients that it takes to see such a share


@dataclass(frozen=True)
class MissingImage:
    """A missing scan as it may have looked.

    Attributes:
        modality: name.
        mean: best guess, (X, Y, Z) in RAS+ order, or (H, W, 3); float32, about [0, 1].
        sd: standard deviation over draws, of the same shape.
        draws: some draws, (S, …).
    """

    modality: str
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    draws: NDArray[np.float32]


@dataclass(frozen=True)
class PatientJoint:
    """What the joint model says of a patient, and where the classes lie.

    Attributes:
        facts: the entry `joint` of predictions.json.
        means: of each class on the map, (K, 2), NaN for one without training patients.
        covariance: about them, (2, 2).
        training: patients that the model was learnt from.
        images: of missing scans.
        lacking: covariates that the model knows and that were not given.
    """

    facts: Mapping[str, Any]
    means: NDArray[np.float64]
    covariance: NDArray[np.float64]
    training: int
    images: Sequence[MissingImage] = field(default=())
    lacking: Sequence[str] = ()


def patient_joint_section(
    page: PatientJoint, patient: Mapping[str, Any], content: Mapping[str, Any], *, convention: str
) -> dict[str, Any]:
    """Return the variables of `patient_joint.html.j2`.

    Args:
        page: what the joint model says.
        patient: of `predictions.json`.
        content: of `predictions.json`.
        convention: of volumes, "radiological" or "neurological".
    """
    if "reason" in page.facts:
        return {"reason": page.facts["reason"]}
    embedding = page.facts["embedding"]
    mean, covariance = np.array(embedding["mean"]), np.array(embedding["covariance"])
    figure = patient_map_figure(
        page.means,
        page.covariance,
        list(content["classes"]),
        mean[:2],
        covariance[:2, :2],
        patient_text.patient_name(patient),
    )
    pictures = {each.modality: each for each in page.images}
    return {
        "reason": "",
        "map": data_uri(figure),
        "training": page.training,
        "distance": _distance(page.facts),
        "lacking": ", ".join(page.lacking),
        "imputed": [_imputed(entry, pictures.get(entry["modality"]), convention) for entry in page.facts["imputed"]],
        "answer": _answer(page.facts["answer"], patient) if page.facts["answer"] else None,
        "verdict": _verdict(page.facts["answer"], patient) if page.facts["answer"] else "",
    }


def _distance(facts: Mapping[str, Any]) -> str:
    if facts["distance"] is None:
        return "Distance to training patients: not known, for want of a scan that the joint model knows."
    text = f"Distance to training patients: {number(facts['distance'])} (about 1 is usual)."
    if facts["n"] < FEWEST:
        return f"{text} {count(facts['n'], 'held-out patient')} are too few to say whether that is far."
    share = f"{100 * facts['share_farther']:.2g} %"
    judged = "Far from them" if facts["share_farther"] < FAR else "Not far from them"
    return f"{text} {judged}: of this patient and {facts['n']:,} held-out ones, {share} lie as far or farther."


def _imputed(entry: Mapping[str, Any], image: MissingImage | None, convention: str) -> dict[str, Any]:
    told = f"{round(100 * entry['told'])} %"
    covariates = entry["covariates"]
    scans = entry["from"][: len(entry["from"]) - len(covariates)]
    source = f"{' and '.join(scans) or 'What is known'} tell{'' if len(scans) > 1 else 's'}"
    alike = f"scans of patients of the same {' and '.join(covariates)}" if covariates else "scans"
    return {
        "modality": entry["modality"],
        "told": f"{source} {told} of the variance in which {entry['modality']} {alike} differ; the rest is not known.",
        "picture": "" if image is None else data_uri(imputed_figure(image.mean, image.sd, image.draws, convention)),
    }  # fmt: skip


def _answer(answer: Mapping[str, Any], patient: Mapping[str, Any]) -> Table:
    """Return HyperMM's own answer beside those with drawn scans, one row a class."""
    rows = [
        (
            str(name),
            patient_text.chance(patient["probabilities"][name]),
            patient_text.chance(values["mean"]),
            f"{patient_text.chance(values['low'])} to {patient_text.chance(values['high'])}",
        )
        for name, values in answer["probabilities"].items()
    ]
    headers = ("Class", "From the scans that there are", "With drawn scans, mean", "In nine draws of ten")
    return Table(headers, tuple(rows), numeric=frozenset({1, 2, 3}))


def _verdict(answer: Mapping[str, Any], patient: Mapping[str, Any]) -> str:
    """Say whether the missing scans might have changed the class that leads, by the share of draws in which it does."""
    leading = max(patient["probabilities"], key=patient["probabilities"].get)
    share = answer["probabilities"][leading]["leads"]
    draws = f"in {percent(round(share, 3))} of these draws"
    if share >= LEADS:
        return f"{leading} leads whatever the missing scans would have shown: {draws}."
    return f"The missing scans could have changed the answer: {leading} leads {draws}."
