"""The map of the joint embedding: every patient with the ellipse of what its scans leave open."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse
from numpy.typing import NDArray

from reporting.figures import FAINT, INK, PALETTE, as_svg

HALF = 1.1774  # radius of the ellipse that holds half of a Gaussian in two dimensions, in standard deviations
NINETY = 2.1460  # and of that which holds nine tenths
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


def _row(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> dict[str, float]:
    """Return a place (2,) and its covariance (2, 2) as a row of the table of embeddings."""
    return {
        "e1": float(mean[0]), "e2": float(mean[1]), "sd1": float(np.sqrt(max(covariance[0, 0], 0))),
        "sd2": float(np.sqrt(max(covariance[1, 1], 0))), "cov_1_2": float(covariance[0, 1]),
    }  # fmt: skip


def _ellipse(row: dict[str, float], colour: str, *, radius: float = HALF, alpha: float = 0.12) -> Ellipse:
    covariance = np.array([[row["sd1"] ** 2, row["cov_1_2"]], [row["cov_1_2"], row["sd2"] ** 2]])
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * radius * np.sqrt(np.maximum(values[::-1], 0))
    angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
    return Ellipse(
        (row["e1"], row["e2"]),
        float(width),
        float(height),
        angle=angle,
        facecolor=colour,
        alpha=alpha,
        edgecolor="none",
    )


def _at_most(groups: pd.Series) -> pd.Series:
    """Call the rarest groups beyond `MOST_GROUPS` others."""
    kept = groups.value_counts().index[: MOST_GROUPS - 1 if groups.nunique() > MOST_GROUPS else MOST_GROUPS]
    return groups.where(groups.isin(kept), "others")


@as_svg
def patient_map_figure(
    figure: Figure,
    centres: NDArray[np.float64],
    spread: NDArray[np.float64],
    classes: list[str],
    mean: NDArray[np.float64],
    covariance: NDArray[np.float64],
    name: str,
) -> None:
    """Draw where one patient lies among the classes.

    Args:
        figure: drawn on.
        centres: mean of each class in training, (K, 2), NaN for one without patients.
        spread: covariance of patients with all scans about them, (2, 2); the ellipses hold half of each class.
        classes: names; those beyond `MOST_GROUPS` share the last colour.
        mean: of the patient, (2,).
        covariance: of the patient, (2, 2); the ellipses hold it with a chance of 50 and of 90 %.
        name: of the patient.
    """
    figure.set_size_inches(5.2, 4.2)
    axes = figure.subplots()
    axes.axhline(0, color=FAINT, linewidth=0.5)
    axes.axvline(0, color=FAINT, linewidth=0.5)
    for k, (label, centre) in enumerate(zip(classes, centres, strict=True)):
        if not np.isfinite(centre).all():
            continue
        number = min(k, MOST_GROUPS - 1)
        axes.add_patch(_ellipse(_row(centre, spread), PALETTE[number], alpha=0.15))
        axes.scatter(
            centre[:1], centre[1:], s=36, marker=MARKERS[number % len(MARKERS)], color=PALETTE[number],
            label=f"{label}, mean in training",
        )  # fmt: skip
    row = _row(mean, covariance)
    if max(row["sd1"], row["sd2"]) > SMALLEST:
        for radius, alpha in ((NINETY, 0.10), (HALF, 0.18)):
            axes.add_patch(_ellipse(row, INK, radius=radius, alpha=alpha))
    axes.scatter(mean[:1], mean[1:2], s=90, marker="*", color=INK, zorder=5, label=name)
    axes.set_xlabel("direction 1")
    axes.set_ylabel("direction 2")
    axes.margins(0.08)
    axes.legend(loc="best", labelcolor=INK)
