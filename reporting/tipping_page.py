"""The part of the joint model's section on scans that are missing for what they would have shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.tipping import ANSWERS, AUC, CHANGE, CONCLUSIONS, DIFFERENCE, Tip, state, tip
from reporting.figures import FAINT, INK, PALETTE, as_svg
from reporting.formatting import number, percent
from reporting.pages import data_uri
from reporting.tables import Table

LABELS = {
    DIFFERENCE: "Classes apart, sd",
    AUC: "AUC of the joint model",
    CHANGE: "AUC against δ = 0",
    ANSWERS: "Answers that change",
}
NOTHING = "Nobody lacks a scan that the joint model could move: there is nothing to tip."
NOT_ASKED = "No conclusion was tipped: impute.deltas is empty, or a note of this run says why not."
STATED = (
    "The joint model fitted again under a stated reason: patients whose scan would have shown more are likelier to "
    "lose it (slope above 0) or less likely. The slope is stated, never learnt, since the scores that would tell it "
    "were not seen. How much higher the lost scores then are is a δ."
)


def tipping_section(
    tipping: pd.DataFrame | None, selection: pd.DataFrame | None, *, nobody: bool
) -> dict[str, Any] | None:
    """Return the variables of `tipping.html.j2`; None without the stage impute.

    Args:
        tipping: as `impute/tipping.csv` has it.
        selection: as `impute/selection.csv` has it.
        nobody: lacks a scan.
    """
    if tipping is None or selection is None:
        return None
    groups = [(group, rows) for group, rows in tipping.groupby(["modality", "conclusion", "moved"], sort=False)]
    groups.sort(key=lambda found: CONCLUSIONS.index(str(found[0][1])))
    groups.sort(key=lambda found: list(tipping["modality"].unique()).index(found[0][0]))
    return {
        "sentences": [
            _sentence(str(group[0]), str(group[1]), str(group[2]), rows) for group, rows in groups if group[1] != CHANGE
        ]
        or [NOTHING if nobody else NOT_ASKED],
        "table": _table([(tuple(map(str, group)), rows) for group, rows in groups]) if groups else None,
        "figure": data_uri(tipping_figure(tipping, selection)) if groups else "",
        "selection": _selection(selection) if len(selection) else None,
        "stated": STATED,
    }


def _tip(conclusion: str, rows: pd.DataFrame) -> Tip:
    """Return where a conclusion changes."""
    rows = rows.sort_values("delta")
    states = [state(conclusion, row["value"], row["low"], row["high"]) for row in rows.to_dict("records")]
    return tip(rows["delta"].to_list(), states)


def _sentence(modality: str, conclusion: str, moved: str, rows: pd.DataFrame) -> str:
    """Say what holds, and up to which δ."""
    found, still = _tip(conclusion, rows), rows[rows["delta"] == 0].iloc[0]
    whose = "" if moved == "all" else f", moved for {moved} only"
    interval = f" [{number(still['low'])} to {number(still['high'])}]" if np.isfinite(still["low"]) else ""
    what = {
        DIFFERENCE: f"the classes lie {still['value']:.2f} sd{interval} apart, {found.here}",
        AUC: f"the joint model’s AUC is {number(still['value'])}{interval}, {found.here}",
        ANSWERS: f"{int(still['lacking'])} test predictions are of patients who lack the scan",
    }[conclusion]
    low, high = rows["delta"].min(), rows["delta"].max()
    ends = [f"δ = {end:+g}" for end in (found.below, found.above) if end is not None]
    looked = f"for no δ from {low:+g} to {high:+g}"
    if conclusion == ANSWERS:
        then = f"the first of them change at {' and '.join(ends)}" if ends else f"none of them changes {looked}"
    else:
        then = f"that first changes at {' and '.join(ends)}" if ends else f"that changes {looked}"
    return f"{modality}{whose}: {what}; {then}."


def _table(groups: list[tuple[tuple[str, ...], pd.DataFrame]]) -> Table:
    """Return a row for each modality, conclusion and who is moved; a column for each δ that is a whole number of sd."""
    deltas = sorted({delta for _, rows in groups for delta in rows["delta"] if float(delta).is_integer()} | {0.0})
    headers = [
        "Scan",
        "Conclusion",
        "Moved",
        "Of",
        "Changes at δ",
        *(f"δ {delta:+g}" if delta else "δ 0" for delta in deltas),
    ]
    body = []
    for (modality, conclusion, moved), rows in groups:
        found, at = _tip(conclusion, rows), rows.set_index("delta")
        cells = [_cell(conclusion, at.loc[delta]) if delta in at.index else "–" for delta in deltas]
        changes = [f"{end:+g}" for end in (found.below, found.above) if end is not None]
        lacking = f"{int(rows['lacking'].iloc[0])} of {int(rows['n'].iloc[0])}"
        body.append((modality, LABELS[conclusion], moved, lacking, ", ".join(changes) or "none", *cells))
    return Table(tuple(headers), tuple(body), numeric=frozenset(range(3, len(headers))))


def _cell(conclusion: str, row: pd.Series) -> str:
    """Write a figure with its interval."""
    if conclusion == ANSWERS:
        return percent(round(row["value"], 2))
    sign = "+" if conclusion == CHANGE else ""
    if not np.isfinite(row["low"]):
        return f"{row['value']:{sign}.2f}"
    return f"{row['value']:{sign}.2f} [{row['low']:{sign}.2f} to {row['high']:{sign}.2f}]"


def _selection(selection: pd.DataFrame) -> Table:
    """Return a row for each modality and stated slope."""
    headers = ("Scan", "Stated slope", "Lack it", "Lost scores, δ", "Mean of everybody, sd", "Classes apart, sd")
    body = [
        (
            str(row["modality"]), f"{row['slope']:+g}", f"{int(row['lacking'])} of {int(row['n'])}",
            *(_stated(row[name], sign) for name, sign in (("delta", "+"), ("mean", "+"), ("apart", ""))),
        )
        for row in selection.to_dict("records")
    ]  # fmt: skip
    return Table(headers, tuple(body), numeric=frozenset(range(1, len(headers))))


def _stated(value: float, sign: str) -> str:
    """Write a figure of a stated slope; NaN where the fit has not converged."""
    return f"{value:{sign}.2f}" if np.isfinite(value) else "not converged"


@as_svg
def tipping_figure(figure: Figure, tipping: pd.DataFrame, selection: pd.DataFrame) -> None:
    """Draw the classes' difference and the AUC against δ, a row for each modality, with the δ of stated slopes.

    Args:
        figure: drawn on.
        tipping: as `tipping_section` takes it, not empty.
        selection: likewise; may be empty.
    """
    modalities = list(dict.fromkeys(tipping["modality"].astype(str)))
    figure.set_size_inches(8.2, 0.5 + 2.6 * len(modalities))
    grid = figure.subplots(len(modalities), 2, sharex=True, squeeze=False)
    for line, modality in zip(grid, modalities, strict=True):
        here = tipping[tipping["modality"] == modality]
        for axes, conclusion, chance in zip(line, (DIFFERENCE, AUC), (0.0, 0.5), strict=True):
            _bands(axes, here[here["conclusion"] == conclusion])
            axes.axhline(chance, color=FAINT, linestyle=":", linewidth=1)
            axes.axvline(0, color=FAINT, linewidth=0.8)
            axes.set_title(f"{modality}: {LABELS[conclusion]}", fontsize=9)
            stated = selection[selection["modality"] == modality] if len(selection) else selection
            for row in stated.to_dict("records"):
                if here["delta"].min() <= row["delta"] <= here["delta"].max():
                    axes.axvline(row["delta"], color=INK, linestyle=(0, (4, 3)), linewidth=0.8)
                    axes.annotate(
                        f"slope {row['slope']:+g}", (row["delta"], 1), xycoords=("data", "axes fraction"), fontsize=7,
                        xytext=(2, -9), textcoords="offset points", color=INK,
                    )  # fmt: skip
    for axes in grid[-1]:
        axes.set_xlabel("δ: imputed scores moved by, sd")


def _bands(axes: Axes, rows: pd.DataFrame) -> None:
    """Draw a line with its interval for each kind of patients moved."""
    groups = list(rows.groupby("moved", sort=False))
    for i, (moved, group) in enumerate(groups):
        group, colour = group.sort_values("delta"), PALETTE[i % len(PALETTE)]
        axes.plot(
            group["delta"], group["value"], color=colour, label=f"{moved} moved", marker="os"[i % 2], markersize=3
        )
        axes.fill_between(group["delta"], group["low"], group["high"], color=colour, alpha=0.12, linewidth=0)
    if len(groups) > 1:
        axes.legend(fontsize=7)
