"""One page per patient and the worklist, from the content of `predictions.json`: no script, nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reporting import patient_text
from reporting.formatting import count, percent
from reporting.pages import data_uri, environment
from reporting.patient_joint import PatientJoint, patient_joint_section
from reporting.patient_table import check_content, missing_modalities
from reporting.quality import CONVENTIONS
from reporting.tables import Table

MAX_CONTRIBUTION_CLASSES = 5  # columns of bars that fit an A4 page
SMALLEST_SCALE = 0.1  # bars of contributions reach at least so far, so that noise does not look large


@dataclass(frozen=True)
class WorklistRow:
    """One row of the worklist.

    Attributes:
        name: of the subject, and the session.
        link: address of the patient's page, "" for none.
        answer: the predicted class, or that the model abstains.
        chances: calibrated probability of the likeliest class.
        set: classes of the conformal set.
        scans: how many of the scans given were used.
        attention: reasons to look at the patient.
    """

    name: str
    link: str
    answer: str
    chances: str
    set: str
    scans: str
    attention: tuple[str, ...]


def patient_page(
    content: Mapping[str, Any],
    patient: Mapping[str, Any],
    *,
    pictures: Mapping[str, bytes],
    slices: Mapping[str, str] | None = None,
    values: Mapping[str, Mapping[str, float | str | None]] | None = None,
    joint: PatientJoint | None = None,
    worklist_link: str = "",
    convention: str = "radiological",
) -> str:
    """Render the page of one patient as self-contained HTML.

    Args:
        content: of `predictions.json`, schema `hypermm-predictions/1`.
        patient: one of its patients.
        pictures: scan id → PNG bytes of its quality-control picture; scans may be left out.
        slices: scan id → path of the page with its slices, relative to this page; scans may be left out.
        values: scan id that is a table → column → value, None where there is none; shown in place of a picture.
        joint: what the joint model says of this patient; None if the exported model has none.
        worklist_link: path of the worklist, relative to this page; "" for none.
        convention: of the pictures, "radiological" or "neurological".

    Raises:
        ValueError: the content is of another schema or lacks something, or a picture is of a scan the patient has not.
    """
    check_content({**content, "patients": [patient]})
    scans = patient["scans"]
    if strange := sorted({*pictures, *(values or {})} - {scan["scan"] for scan in scans}):
        raise ValueError(
            f"patient {patient['observation']}: picture or values of {', '.join(strange)}, none of the patient's "
            f"scans ({', '.join(scan['scan'] for scan in scans) or 'none'}); is it another patient's?"
        )
    ranked = _ranked(patient)
    return (
        environment()
        .get_template("patient.html.j2")
        .render(
            content=content,
            patient=patient,
            name=patient_text.patient_name(patient),
            margin_note=patient_text.css_text(patient_text.patient_name(patient)),
            created=patient_text.readable_time(content["made"]["time"]),
            worklist_link=quote(worklist_link),
            warnings=[
                f"{s['scan']} ({s['modality']}): {patient_text.describe_distance(s)}"
                for s in scans if patient_text.flagged(s)
            ],
            answer_chance=patient_text.chance(patient["probabilities"].get(patient["answer"])),
            bars=[(name, patient_text.chance(p), p, name in patient["set"]) for name, p in ranked],
            uncalibrated=", ".join(
                f"{name} {patient_text.chance(patient['uncalibrated'][name])}" for name, _ in ranked
            ),
            set_sentence=patient_text.set_sentence(patient, error_rate=content["error_rate"]),
            n_used=sum(scan["used"] for scan in scans),
            scans=[(scan, patient_text.remark(scan)) for scan in scans],
            compared=any(scan["used"] and not patient_text.not_compared(scan) for scan in scans),
            contributions=_contributions(patient, [name for name, _ in ranked]),
            missing=_missing_table(patient, content),
            qc=[(s["scan"], s["modality"], data_uri(pictures[s["scan"]], "image/png"),
                 quote((slices or {}).get(s["scan"], "")))
                for s in scans if s["scan"] in pictures],
            values=_values_table(scans, values or {}),
            joint=None if joint is None else patient_joint_section(joint, patient, content, convention=convention),
            convention=CONVENTIONS[convention],
            provenance=_provenance(content, patient),
        )
    )  # fmt: skip


def missing_page(observation: str, reason: str) -> str:
    """Render the replacement of a page that could not be made.

    Args:
        observation: name of the observation.
        reason: why not.
    """
    page = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{{ observation }}: no page</title></head>'
        "<body><h1>{{ observation }}</h1><p>This page could not be made ({{ reason }}). What the model says of this "
        "patient is in predictions.json.</p></body></html>\n"
    )
    return environment().from_string(page).render(observation=observation, reason=reason)


def worklist_page(content: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """Render the worklist: warnings, then abstentions, then lost scans and notes, then the others as given.

    Args:
        content: of `predictions.json`, schema `hypermm-predictions/1`.
        links: observation → path of its page, relative to this one, not yet encoded as an address.

    Raises:
        ValueError: the content is of another schema or lacks something.
    """
    check_content(content)
    patients = sorted(content["patients"], key=_urgency)
    rows = [(_urgency(patient), _worklist_row(patient, links)) for patient in patients]
    lost = [(patient, scan) for patient in patients for scan in patient["scans"] if not scan["used"]]
    return (
        environment()
        .get_template("worklist.html.j2")
        .render(
            content=content,
            created=patient_text.readable_time(content["made"]["time"]),
            tiles=_tiles(content, lost=len(lost)),
            groups=[
                ("look", "Look at these first", [row for urgency, row in rows if urgency < _CALM]),
                ("answered", "Predicted, no remarks", [row for urgency, row in rows if urgency == _CALM]),
            ],
            refused=Table(
                ("Patient", "Observation", "Reason"),
                tuple((r["subject"], r["observation"], r["reason"]) for r in content["refused"]),
            ),
            lost=Table(
                ("Patient", "Scan", "Modality", "Reason"),
                tuple(
                    (patient_text.patient_name(p), s["scan"], s["modality"], patient_text.reason(s)) for p, s in lost
                ),
            ),
            provenance=_provenance(content),
        )
    )


def _tiles(content: Mapping[str, Any], *, lost: int) -> list[tuple[str, int, str]]:
    """Return the counts at the top of the worklist: name, number, explanation."""
    patients, refused = content["patients"], len(content["refused"])
    abstained = sum(bool(patient["abstains"]) for patient in patients)
    warned = sum(bool(patient["out_of_distribution"]) for patient in patients)
    not_compared = sum(
        not p["out_of_distribution"] and any(map(patient_text.not_compared, p["scans"])) for p in patients
    )
    return [
        ("Patients", len(patients) + refused, "in this list"),
        ("Predicted", len(patients) - abstained, "the model named a class"),
        ("Abstained", abstained, "no prediction given"),
        (
            "Unlike training",
            warned,
            f"not known for {not_compared:,} more" if not_compared else "of those predicted or abstained",
        ),
        ("Refused", refused, "no prediction was tried"),
        (
            "Scans not used",
            lost,
            f"of {sum(len(p['scans']) for p in patients):,} scans, those of refused patients not counted",
        ),
    ]


_CALM = 3


def _urgency(patient: Mapping[str, Any]) -> int:
    """Rank a patient: 0 warning, 1 abstention, 2 unused scan or note, 3 none of these."""
    remarked = patient["notes"] or any(not scan["used"] for scan in patient["scans"])
    return 0 if patient["out_of_distribution"] else 1 if patient["abstains"] else 2 if remarked else _CALM


def _worklist_row(patient: Mapping[str, Any], links: Mapping[str, str]) -> WorklistRow:
    """Return the worklist row of a patient."""
    likeliest, p = _ranked(patient)[0]
    used, given = sum(scan["used"] for scan in patient["scans"]), len(patient["scans"])
    attention = ["unlike training scans"] if patient["out_of_distribution"] else []
    attention += ["abstains"] if patient["abstains"] else []
    attention += [f"{count(given - used, 'scan')} not used"] if used < given else []
    attention += ["see its notes"] if patient["notes"] else []
    return WorklistRow(
        name=patient_text.patient_name(patient),
        link=quote(links.get(patient["observation"], "")),
        answer="no prediction" if patient["abstains"] else patient["answer"],
        chances=f"{likeliest} {patient_text.chance(p)}",
        set=", ".join(patient["set"]) or "empty",
        scans=f"{used} of {given}",
        attention=tuple(attention),
    )


def _ranked(patient: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return classes and calibrated probabilities, the likeliest first."""
    return sorted(patient["probabilities"].items(), key=lambda item: -item[1])


def _contributions(patient: Mapping[str, Any], ranked: Sequence[str]) -> dict[str, Any] | None:
    """Return signed bars: rows (scan, modality, one (text, bar in [−1, 1]) a class); None without contributions."""
    known = [scan for scan in patient["scans"] if scan["used"] and scan["contribution"] is not None]
    if not known:
        return None
    shown = list(ranked[:1] if len(ranked) == 2 else ranked[:MAX_CONTRIBUTION_CLASSES])
    values = [[scan["contribution"][name] for name in shown] for scan in known]
    scale = max(SMALLEST_SCALE, max(abs(value) for row in values for value in row))
    return {
        "classes": shown,
        "left_out": len(ranked) - len(shown) if len(ranked) > 2 else 0,
        "scale": patient_text.points(scale).lstrip("+"),
        "rows": [
            (scan["scan"], scan["modality"], [(patient_text.points(value), value / scale) for value in row])
            for scan, row in zip(known, values, strict=True)
        ],
    }


def _missing_table(patient: Mapping[str, Any], content: Mapping[str, Any]) -> Table:
    """Return the expected change from each missing modality."""
    by_modality = {row["modality"]: row for row in patient["missing"]}
    rows = []
    for modality in missing_modalities(patient, content):
        row = by_modality.get(modality)
        if row is None or not row["n"]:
            rows.append((modality, "0", "not known", "not known", "not known"))
            continue
        resolved = row["abstentions_resolved"]
        rows.append(
            (
                modality,
                f"{row['n']:,}",
                f"{round(100 * row['mean_absolute_change'])} points",
                f"{round(100 * row['decisions_changed'])} %",
                "not known" if resolved is None else f"{round(100 * resolved)} %",
            )
        )
    rates = sorted({row["error_rate"] for row in by_modality.values()})
    resolved_at = " or ".join(percent(rate) for rate in rates)
    headers = ("Modality added", "Subjects", "Probability moved by", "Other class leads",
               f"Abstentions resolved at {resolved_at}" if rates else "Abstentions resolved")  # fmt: skip
    return Table(headers, tuple(rows), numeric=frozenset(range(1, 5)))


def _values_table(scans: Sequence[Mapping[str, Any]], values: Mapping[str, Mapping[str, float | str | None]]) -> Table:
    """Return the values of the patient's tables, one row a column."""
    rows = [
        (scan["modality"], name, "missing" if value is None else f"{value:g}" if isinstance(value, float) else value)
        for scan in scans
        for name, value in values.get(scan["scan"], {}).items()
    ]
    return Table(("Table", "Column", "Value"), tuple(rows))


def _provenance(content: Mapping[str, Any], patient: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return the provenance of the page, as name and value."""
    made = content["made"]
    software = made.get("software") or {}
    rows = [("Observation", patient["observation"])] if patient else []
    rows += [
        ("Model", f"{made['model']}, version {made['model_version']}"),
        ("SHA-256 of the model’s checksums.json", str(made["model_sha256"])),
        ("Made", str(made["time"])),
        ("Schema", content["schema"]),
        ("Classes", ", ".join(content["classes"])),
        ("Modalities the model reads", ", ".join(content["modalities"])),
        ("Error rate chosen", percent(content["error_rate"])),
        ("Temperature of the calibration", f"{content['temperature']:.3g}"),
        ("Commit of the software", str(software.get("git_commit", "unknown"))),
    ]
    versions = ", ".join(f"{name} {version}" for name, version in (software.get("versions") or {}).items())
    return [*rows, ("Versions", versions)] if versions else rows
