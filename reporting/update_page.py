"""The section of the report on the joint model that is updated: versions, who came, the log, drift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reporting.figures import FAINT, INK, PALETTE, as_svg
from reporting.formatting import is_number, number
from reporting.pages import data_uri
from reporting.tables import Table

AVERAGED = 20  # patients in a moving average
BEFORE = "before it was learnt"


@dataclass(frozen=True)
class Update:
    """What the stage update left.

    Attributes:
        versions: of `versions.json`, oldest first.
        log: version, subject, truth, how, log_loss, surprise; in the order in which patients came.
        classes: K.
    """

    versions: Sequence[Mapping[str, Any]]
    log: pd.DataFrame
    classes: int


def update_section(page: Update) -> dict[str, Any]:
    """Return the variables of `update.html.j2`."""
    last = page.versions[-1]
    return {
        "patients": f"{len(last['in']):,}",
        "versions": _versions(page.versions),
        "figure": data_uri(stream_figure(page.log, float(np.log(page.classes)))),
        "drift": _drift(last["drift"], int(last["version"])),
        "expired": last["version"] > 1,
        "forgetting": "" if last["forgetting"] == 1 else number(last["forgetting"], 3),
        "coin": number(np.log(page.classes)),
    }


def _versions(versions: Sequence[Mapping[str, Any]]) -> Table:
    headers = ["Version", "Came", "New session or scan", "Erased since", "In", "Count as", "Log loss", "p of drift"]
    rows = [
        (
            str(each["version"]),
            f"{len(each['added']):,}",
            f"{len(each['replaced']):,}",
            f"{each['erased']:,}",
            f"{len(each['in']):,}",
            number(each["counts_as"], 1),
            number(each["log_loss"]),
            (number(each["drift"]["p"], 4) if is_number(each["drift"]["p"]) else "–")
            + (" drift" if each["drift"]["found"] else ""),
        )
        for each in versions
    ]
    flagged = frozenset(i for i, each in enumerate(versions) if each["drift"]["found"])
    return Table(tuple(headers), tuple(rows), frozenset(range(len(headers))), flagged)


def _drift(drift: Mapping[str, Any], version: int) -> str:
    """Say in a sentence whether the newest patients are like the earlier ones."""
    if not is_number(drift["p"]):
        return (
            ""
            if version == 1
            else f"{drift['newest']} patients came since the first version; too few to look for drift."
        )
    groups = f"The newest {drift['newest']} patients were held against the {drift['earlier']} before them"
    if drift["found"]:
        return f"{groups}: they are farther from the model (p = {drift['p']:.2g}, limit {drift['limit']:.2g}). Drift."
    return f"{groups}: no drift was found (p = {drift['p']:.2g}, limit {drift['limit']:.2g}). That is no proof of none."


@as_svg
def stream_figure(figure: Figure, log: pd.DataFrame, coin: float) -> None:
    """Draw log loss and surprise of each patient in the order of arrival, with a moving average.

    Args:
        figure: drawn on.
        log: version, how, log_loss, surprise.
        coin: log loss of equal probabilities.
    """
    figure.set_size_inches(9.2, 4.6)
    panels = figure.subplots(2, 1, sharex=True)
    place = np.arange(1, len(log) + 1)
    before = (log["how"] == BEFORE).to_numpy()
    for axes, column, name, usual in zip(
        panels, ("log_loss", "surprise"), ("log loss", "surprise"), (coin, 0.0), strict=True
    ):
        values = log[column].astype(float)
        axes.axhline(usual, color=FAINT, linewidth=0.8, linestyle="--")
        for mask, filled, label in ((before, True, BEFORE), (~before, False, "held out")):
            axes.scatter(
                place[mask], values[mask], s=12, linewidths=0.7, edgecolors=PALETTE[0],
                facecolors=PALETTE[0] if filled else "none", label=label if mask.any() else None,
            )  # fmt: skip
        smooth = values.rolling(AVERAGED, min_periods=AVERAGED // 2).mean()
        axes.plot(place, smooth, color=PALETTE[1], label=f"mean of {AVERAGED}")
        for start in np.flatnonzero(np.diff(log["version"].to_numpy())) + 1.5:
            axes.axvline(start, color=FAINT, linewidth=0.6)
        axes.set_ylabel(name)
    panels[0].legend(loc="upper right", labelcolor=INK)
    panels[1].set_xlabel("patients, in the order in which they came; vertical lines: versions")
