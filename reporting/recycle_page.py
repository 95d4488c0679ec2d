"""The section of the report on learning from few labels, with synthetic patients and with their rivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reporting.figures import FAINT, INK, PALETTE, as_svg
from reporting.formatting import interval, number, percent
from reporting.pages import data_uri
from reporting.tables import Table

REAL, GAIN, HARM = "real only", "gain", "harm"
MARKERS = ("o", "s", "^", "D", "v", "P")  # one less than colours, so that no two of 42 ways look alike


@dataclass(frozen=True)
class Recycled:
    """What the stage recycle left.

    Attributes:
        curve: as `curve.csv`.
        facts: generation, repeats.
    """

    curve: pd.DataFrame
    facts: Mapping[str, Any]


def recycled_section(page: Recycled) -> dict[str, Any]:
    """Return the variables of `recycled.html.j2`."""
    return {
        "verdict": _verdict(page.curve),
        "figure": data_uri(curve_figure(page.curve)),
        "table": _table(page.curve),
        "generation": page.facts["generation"],
        "repeats": page.facts["repeats"],
    }


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['way']}, ρ = {row['rho']:g}" if row["rho"] else str(row["way"])


def _verdict(curve: pd.DataFrame) -> str:
    """Say whether anything made up helps, and whether synthetic patients do what their rivals do not."""
    tried = curve[curve["way"] != REAL]
    if tried.empty:
        return "Nothing but real patients could be tried."
    found = []
    for says, word in ((GAIN, "A gain"), (HARM, "Harm")):
        rows = tried[tried["says"] == says]
        if len(rows):
            named = [f"{_named(row)} at {percent(row['labelled'])} of the labels" for row in rows.to_dict("records")]
            found.append(f"{word} beyond chance: {'; '.join(named)}.")
    if GAIN not in set(tried["says"]):
        found.insert(0, "No gain: against real patients alone, no way of making more is better beyond chance.")
    return " ".join(found)


def _table(curve: pd.DataFrame) -> Table:
    headers = ["Labels", "Patients", "Trained on", "AUC", "95 % interval", "Difference", "95 % interval"]
    headers += ["p (Holm)", "Says"]
    rows = [
        (percent(row["labelled"]), number(row["patients"], 0), _named(row), number(row["auc"]),
         interval(row["auc_low"], row["auc_high"]), number(row["difference"], 3, missing="–"),
         "–" if row["way"] == REAL else interval(row["low"], row["high"], 3), number(row["p_holm"], 3, missing="–"),
         str(row["says"]) if isinstance(row["says"], str) else "")
        for row in curve.to_dict("records")
    ]  # fmt: skip
    flagged = frozenset(i for i, row in enumerate(rows) if row[-1] in (GAIN, HARM))
    return Table(tuple(headers), tuple(rows), frozenset((0, 1, 3, 4, 5, 6, 7)), flagged)


@as_svg
def curve_figure(figure: Figure, curve: pd.DataFrame) -> None:
    """Draw AUC against the share of labels, and each way's difference to real patients alone with its interval.

    Args:
        figure: drawn on.
        curve: as `curve.csv`.
    """
    figure.set_size_inches(9.2, 4.2)
    left, right = figure.subplots(1, 2)
    shares = sorted(curve["labelled"].unique())
    place = {share: i for i, share in enumerate(shares)}
    right.axhline(0, color=FAINT, linewidth=0.8)
    names = [(way, rho) for way, rho in curve[["way", "rho"]].drop_duplicates().itertuples(index=False)]
    names.sort(key=lambda each: (each[0] != REAL, each))
    for number_of, (way, rho) in enumerate(names):
        rows = curve[(curve["way"] == way) & (curve["rho"] == rho)].sort_values("labelled")
        colour = FAINT if way == REAL else PALETTE[(number_of - 1) % len(PALETTE)]
        marker = MARKERS[number_of % len(MARKERS)]
        x = np.array([place[share] for share in rows["labelled"]], dtype=float)
        left.plot(x, rows["auc"], color=colour, marker=marker, markersize=4, label=_named({"way": way, "rho": rho}))
        if way == REAL:
            left.fill_between(
                x, rows["auc_low"].astype(float), rows["auc_high"].astype(float), color=colour, alpha=0.12
            )
            continue
        off = x + 0.09 * (number_of - len(names) / 2)
        right.vlines(off, rows["low"].astype(float), rows["high"].astype(float), color=colour, linewidth=1.1)
        right.plot(off, rows["difference"], marker, color=colour, markersize=4, linestyle="none")
    for axes, title in (
        (left, "AUC of test patients; band: interval of real only"),
        (right, "difference to real only"),
    ):
        axes.set_xticks(range(len(shares)), [percent(share) for share in shares])
        axes.set_xlabel("share of training labels used")
        axes.set_title(title)
    left.legend(loc="lower right", labelcolor=INK)
