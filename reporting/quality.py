"""Quality control of every scan: what its header said, what preprocessing found, and which to look at first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from reporting.formatting import count, is_number
from reporting.tables import Table

CONVENTIONS = {
    "radiological": "the patient’s right is on the left of the picture (radiological convention)",
    "neurological": "the patient’s left is on the left of the picture (neurological convention)",
}
COLUMNS = (
    "scan", "subject", "modality", "kind", "remarks", "orientation", "voxel_x_mm", "voxel_y_mm", "voxel_z_mm",
    "space_from", "brain_ml", "brain_deviation", "range_low", "range_high", "width", "height", "bits", "turned",
)  # fmt: skip
UNKNOWN = "–"
_NUMBERS = [name for name in COLUMNS if name.endswith(("_mm", "_ml", "deviation", "low", "high", "width", "height"))]
_TO_SD = 1.4826  # of the median absolute deviation, for a normal distribution
_LEAST_SD_ML = 1.0  # so that a cohort of like brains makes nothing of a millilitre


def quality_of(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per scan: with most remarks first, then by the distance of the brain's volume, then by name.

    Args:
        records: `scan`, `subject` and `modality`, and what the scan's record has of `kind`, `remarks`, `orientation`,
            `voxel_mm` (x, y, z), `space_from`, `brain_ml`, `range_used` (low, high), `not_registered`; of pictures
            `pixels` (height, width), `bits`, `turned` (how; "" for not at all).

    Returns:
        `COLUMNS`; NaN or "" where a record does not say. `brain_deviation`: distance of `brain_ml` from the median of
        the modality in robust standard deviations (1.4826 times the median absolute deviation, 1 ml at least).
        `remarks` are sentences, joined by a space.
    """
    rows, counts = [], []
    for record in records:
        remarks = [_sentence(text) for text in record.get("remarks") or ()]
        if record.get("not_registered"):
            remarks.append(_sentence(f"not registered: {record['not_registered']}"))
        voxel, used = record.get("voxel_mm") or [None] * 3, record.get("range_used") or [None] * 2
        height, width = record.get("pixels") or (None, None)
        rows.append(
            {
                **{name: record[name] for name in ("scan", "subject", "modality")},
                **{name: _text(record.get(name)) for name in ("kind", "orientation", "space_from", "bits")},
                "turned": "no" if record.get("turned") == "" else _text(record.get("turned")),
                **dict(zip(("voxel_x_mm", "voxel_y_mm", "voxel_z_mm"), voxel, strict=True)),
                **dict(zip(("range_low", "range_high"), used, strict=True)),
                **{"width": width, "height": height, "brain_ml": record.get("brain_ml"), "remarks": " ".join(remarks)},
            }
        )
        counts.append(len(remarks))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame[_NUMBERS] = frame[_NUMBERS].astype("float64")
    frame["brain_deviation"] = frame.groupby("modality")["brain_ml"].transform(_deviation).round(2)
    keys = {"most": -np.array(counts, int), "far": -frame["brain_deviation"].abs().fillna(0)}
    ordered = frame.assign(**keys).sort_values(["most", "far", "scan"], kind="stable", ignore_index=True)
    return ordered[list(COLUMNS)]


def quality_tables(quality: pd.DataFrame, *, limit: int) -> list[tuple[str, Table]]:
    """Return a caption and a table of the volumes, and of the pictures, if there are any; the first `limit` rows each.

    Args:
        quality: as `quality_of` returns it.
        limit: rows shown at most.
    """
    pictures = quality["kind"] == "image"
    found = []
    for rows, what, table in ((quality[~pictures], "volume", _volumes), (quality[pictures], "picture", _pictures)):
        if len(rows):
            shown = rows.head(limit)
            caption = f"{count(len(rows), what)}, those to look at first on top"
            if len(rows) > len(shown):
                caption += f"; the first {len(shown):,} here, all in qc.csv beside this page"
            found.append((caption, table(shown)))
    return found


def _volumes(rows: pd.DataFrame) -> Table:
    cells = []
    for row in rows.to_dict("records"):
        brain = UNKNOWN
        if is_number(row["brain_ml"]):
            brain = f"{row['brain_ml']:,.0f} ({row['brain_deviation']:+.1f})".replace("-", "−")
        cells.append(
            (
                row["scan"],
                row["modality"],
                row["orientation"] or UNKNOWN,
                _joined(" × ", (row[f"voxel_{axis}_mm"] for axis in "xyz"), ".3g"),
                row["space_from"] or UNKNOWN,
                brain,
                _joined(" to ", (row["range_low"], row["range_high"]), ",.4g"),
                row["remarks"],
            )
        )
    headers = (
        "Scan", "Modality", "Axes", "Voxel, mm", "Place read from", "Brain, ml (distance)", "Range used", "Remarks",
    )  # fmt: skip
    return Table(headers, tuple(cells), numeric=frozenset({5}), flagged=_remarked(rows))


def _pictures(rows: pd.DataFrame) -> Table:
    cells = tuple(
        (
            row["scan"],
            row["modality"],
            _joined(" × ", (row["width"], row["height"]), ",.0f"),
            row["bits"] or UNKNOWN,
            row["turned"] or UNKNOWN,
            row["remarks"],
        )
        for row in rows.to_dict("records")
    )
    headers = ("Scan", "Modality", "Pixels", "Bits", "Turned", "Remarks")
    return Table(headers, cells, flagged=_remarked(rows))


def _remarked(rows: pd.DataFrame) -> frozenset[int]:
    return frozenset(np.flatnonzero(rows["remarks"] != "").tolist())


def _deviation(values: pd.Series) -> pd.Series:
    """Return distances from the median in robust standard deviations."""
    away = values - values.median()
    return away / max(_TO_SD * away.abs().median(), _LEAST_SD_ML)


def _joined(between: str, values: Iterable[Any], form: str) -> str:
    """Write numbers in one cell; – if one is not known."""
    known = list(values)
    return (
        between.join(format(value, form) for value in known).replace("-", "−")
        if all(map(is_number, known))
        else UNKNOWN
    )


def _sentence(text: Any) -> str:
    """Write a remark as a sentence."""
    words = str(text).strip()
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _text(value: Any) -> str:
    """Write a value of a record as text; "" if it does not say."""
    return "" if value is None else str(value)
