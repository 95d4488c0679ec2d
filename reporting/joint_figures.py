"""The map of the joint embedding: every patient with the ellipse of what its scans leave open."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse

from reporting.figures import FAINT, INK, PALETTE, as_svg

HALF = 1.1774  # radius of the ellipse that holds half of a Gaussian in two dimensions, in standard deviations
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MOST_GROUPS = len(PALETTE)
SMALLEST = 1e-3  # ellipses below are points


@as_svg
def embedding_figure(figure: Figure, table: pd.DataFrame, groupings: dict[str, pd.Series]) -> None:
    """Draw the first two directions of the embedding, a panel for each grouping.

    Args:
        figure: drawn on.
        table: columns e1, e2, sd1, sd2, cov_1_2, split; one row a patient.
        groupings: title → group of each row; the rarest groups share a colour beyond `MOST_GROUPS`.
    """
    figure.set_size_inches(4.6 * len(groupings), 4.4)
    panels = figure.subplots(1, len(groupings), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (title, groups) in zip(panels, groupings.items(), strict=True):
        _panel(axes, table, _at_most(groups))
        axes.set_title(title)
        axes.set_xlabel("direction 1")
    panels[0].set_ylabel("direction 2")


def _panel(axes: Axes, table: pd.DataFrame, groups: pd.Series) -> None:
    names = sorted(groups.unique())
    axes.axhline(0, color=FAINT, linewidth=0.5)
    axes.axvline(0, color=FAINT, linewidth=0.5)
    for number, name in enumerate(names):
        colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
        for row in table[groups == name].to_dict("records"):
            if max(row["sd1"], row["sd2"]) > SMALLEST:
                axes.add_patch(_ellipse(row, colour))
        for tested in (False, True):
            some = table[(groups == name) & ((table["split"] == "test") == tested)]
            axes.scatter(
                some["e1"], some["e2"], s=16, marker=marker, linewidths=0.8,
                facecolors=colour if tested else "none", edgecolors=colour,
            )  # fmt: skip
    handles = [
        Line2D([], [], color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], linestyle="none", label=name)
        for i, name in enumerate(names)
    ]
    axes.legend(handles=handles, loc="best", labelcolor=INK)


def _ellipse(row: dict[str, float], colour: str) -> Ellipse:
    covariance = np.array([[row["sd1"] ** 2, row["cov_1_2"]], [row["cov_1_2"], row["sd2"] ** 2]])
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * HALF * np.sqrt(np.maximum(values[::-1], 0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    return Ellipse(
        (row["e1"], row["e2"]), float(width), float(height), angle=angle, facecolor=colour, alpha=0.12, edgecolor="none"
    )


def _at_most(groups: pd.Series) -> pd.Series:
    """Call the rarest groups beyond `MOST_GROUPS` others."""
    kept = groups.value_counts().index[: MOST_GROUPS - 1 if groups.nunique() > MOST_GROUPS else MOST_GROUPS]
    return groups.where(groups.isin(kept), "others")
