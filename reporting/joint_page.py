"""The section of the report on the joint model: the map of patients, and what was imputed and how well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reporting.formatting import number, percent
from reporting.imputed_figures import ImputedBeside, beside_figure
from reporting.joint_figures import embedding_figure
from reporting.pages import data_uri
from reporting.tables import Table
from reporting.tipping_page import tipping_section

MOST_SITES = 7
LEVELS = (50, 80, 90, 95)
PATIENTS_FOR_A_CLAIM = 10  # patients below which a coverage says little


@dataclass(frozen=True)
class Joint:
    """What the stages joint and impute left.

    Attributes:
        embeddings: as `pipeline.store.joint.JointSet.embeddings` returns it.
        site: observation → site or scanner; None if the manifest has none.
        shared: directions that blocks share, of the first repeat.
        blocks: name → scores, of the first repeat.
        imputed: repeat, observation, modality, from, sd; None without the stage impute.
        quality: repeat, modality, observation, subject, from, crps, crps_without, cover_50 … cover_95, image_error,
            image_error_without, image_cover_90 (NaN where there is no decoder); None likewise.
        notes: of the model, such as links that could not be learnt.
        tipping: as `impute/tipping.csv` has it; None without the stage impute.
        selection: as `impute/selection.csv` has it; None likewise.
        beside: test patients' scans that were hidden, with what was imputed in their place.
        convention: of volumes, "radiological" or "neurological".
        steps: of training the diffusion engine, of the first repeat; None with the linear one.
        covariates: that the model knows, of the first repeat.
    """

    embeddings: pd.DataFrame
    site: pd.Series | None
    shared: int
    blocks: Mapping[str, int]
    imputed: pd.DataFrame | None
    quality: pd.DataFrame | None
    notes: Sequence[str] = ()
    tipping: pd.DataFrame | None = None
    selection: pd.DataFrame | None = None
    beside: Sequence[ImputedBeside] = ()
    convention: str = "radiological"
    steps: int | None = None
    covariates: Sequence[str] = ()


def joint_section(page: Joint) -> dict[str, Any]:
    """Return the variables of `joint.html.j2`."""
    repeat = int(page.embeddings["repeat"].min())
    rows = page.embeddings[page.embeddings["repeat"] == repeat].reset_index(drop=True)
    groupings = {"by class": rows["label"], "by the scans that there are": rows["has"].replace("", "none")}
    if page.site is not None:
        site = rows["observation"].map(page.site).fillna("").replace("", "not given")
        if 1 < site.nunique() <= MOST_SITES:
            groupings["by site"] = site
    wide = rows.assign(width=np.hypot(rows["sd1"], rows["sd2"]))
    return {
        "repeat": repeat,
        "map": data_uri(embedding_figure(rows, groupings)),
        "blocks": ", ".join(f"{name} {size}" for name, size in page.blocks.items()),
        "shared": page.shared,
        "steps": page.steps,
        "patterns": _patterns(wide),
        "imputed": None if page.imputed is None else _imputed(page.imputed, page.quality),
        "verdict": _verdict(page.quality, page.covariates),
        "beside": _beside(page.beside, page.convention),
        "images": None if page.quality is None else _images(page.quality),
        "image_verdict": "" if page.quality is None else _image_verdict(page.quality),
        "notes": page.notes,
        "tipping": tipping_section(
            page.tipping, page.selection, nobody=page.imputed is not None and page.imputed.empty
        ),
    }


def _patterns(rows: pd.DataFrame) -> Table:
    """Return the width of the embedding and the distance to training, by the scans that there are."""
    cells = [
        [
            str(has) or "none",
            f"{group['subject'].nunique():,}",
            number(group["width"].median()),
            number(group["distance"].median()),
            number(group["outside"].median()),
        ]
        for has, group in rows.groupby("has")
    ]
    headers = ["Scans", "Patients", "Width of the embedding", "Distance to training", "Outside of the basis"]
    return Table(tuple(headers), tuple(map(tuple, cells)), frozenset(range(1, len(headers))))


def _imputed(imputed: pd.DataFrame, quality: pd.DataFrame | None) -> Table:
    """Return what was imputed, and how well the intervals held on hidden scans of test patients."""
    headers = [
        "Imputed",
        "Times",
        "Checked on",
        *(f"{level} % interval held" for level in LEVELS),
        "CRPS",
        "Without the other scans",
    ]
    checked = quality if quality is not None else pd.DataFrame(columns=["modality"])
    cells = []
    for modality in sorted({*imputed["modality"], *checked["modality"]}):
        rows = checked[checked["modality"] == modality]
        line = [str(modality), f"{int((imputed['modality'] == modality).sum()):,}", f"{len(rows):,}"]
        line += [percent(round(rows[f"cover_{level}"].mean(), 2)) if len(rows) else "–" for level in LEVELS]
        line += [number(rows[name].mean(), 3) if len(rows) else "–" for name in ("crps", "crps_without")]
        cells.append(line)
    return Table(tuple(headers), tuple(map(tuple, cells)), frozenset(range(1, len(headers))))


def _beside(scans: Sequence[ImputedBeside], convention: str) -> list[tuple[str, str, str]]:
    """Return modality, picture and caption of each modality whose hidden scans are shown."""
    found = []
    for modality in dict.fromkeys(each.modality for each in scans):
        some = [each for each in scans if each.modality == modality]
        errors = "; ".join(
            f"{each.name} from {each.given}: best guess {each.error:.3f} off, the mean training scan "
            f"{each.error_without:.3f}"
            for each in some
        )
        found.append((modality, data_uri(beside_figure(some, convention)), errors))
    return found


def _with_images(quality: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose image was imputed too."""
    return quality.dropna(subset=["image_error"]) if "image_error" in quality else quality.iloc[:0]


def _images(quality: pd.DataFrame) -> Table | None:
    """Return how far imputed images were off, beside the mean training scan; None without any."""
    rows = _with_images(quality)
    cells = [
        (
            str(modality),
            f"{len(group):,}",
            number(group["image_error"].mean(), 3),
            number(group["image_error_without"].mean(), 3),
            percent(round(group["image_cover_90"].mean(), 2)),
        )
        for modality, group in rows.groupby("modality")
    ]
    headers = ("Imputed", "Checked on", "Error of the best guess", "Of the mean training scan", "90 % interval held")
    return Table(headers, tuple(cells), frozenset(range(1, len(headers)))) if cells else None


def _patients(quality: pd.DataFrame) -> int:
    """Return how many patients were imputed; earlier versions of the stage noted sessions alone."""
    return int(quality.get("subject", quality["observation"]).nunique())


def _image_verdict(quality: pd.DataFrame) -> str:
    """Say in a sentence whether imputed images are nearer to the real ones than a mean scan is."""
    rows = _with_images(quality)
    if _patients(rows) < PATIENTS_FOR_A_CLAIM:
        return ""
    told = []
    for modality, group in rows.groupby("modality"):
        nearer = int((group["image_error"] < group["image_error_without"]).sum())
        gain = 1 - group["image_error"].mean() / group["image_error_without"].mean()
        told.append(f"{modality}: in {nearer} of {len(group)} scans, {_change(gain)} error on average")
    return f"Is the best guess nearer to the real scan than the mean training scan is? {'; '.join(told)}."


def _change(gain: float) -> str:
    return f"{percent(round(abs(gain), 2))} {'less' if gain >= 0 else 'more'}"


def _verdict(quality: pd.DataFrame | None, covariates: Sequence[str] = ()) -> str:
    """Say in a sentence whether the intervals can be trusted, and whether other scans help."""
    if quality is None or quality.empty:
        return ""
    patients, held = _patients(quality), quality["cover_90"].mean()
    gain = 1 - quality["crps"].mean() / quality["crps_without"].mean()
    text = f"On hidden scans of test patients, 90 % intervals held {percent(round(held, 2))} of the true values"
    if patients < PATIENTS_FOR_A_CLAIM:
        return f"{text}; with {patients} patients that says little."
    judged = "too narrow: do not trust them" if held < 0.85 else "wider than needed" if held > 0.95 else "as promised"
    helped = (
        f"the other scans bring the error (CRPS) down by {percent(round(gain, 2))}"
        if gain > 0.01
        else "the other scans tell nothing of the missing one that these patients could show"
    )
    seen = f"{' and '.join(covariates)} but no scan" if covariates else "no scan"
    return f"{text}: {judged}. Against a guess that sees {seen}, {helped}."
