"""Figures of a comparison: AUC by share of scans hidden, by patients, by reason for missing; imputed and real scans."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from preprocessing.qc import DIRECTIONS
from reporting.figures import FAINT, INK, PALETTE, as_svg

WHERE_TITLES = {"test": "hidden in the test split", "both": "hidden in training and test"}
_LINES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

Volume = npt.NDArray[np.floating]


@as_svg
def robustness_figure(figure: Figure, points: pd.DataFrame) -> None:
    """Draw AUC with its interval against the share hidden: a panel for each hidden modality and split, a line a method.

    Args:
        figure: drawn on.
        points: as `comparison.robustness_table` returns them; points without an AUC are left out.
    """
    methods = list(dict.fromkeys(points["method"].astype(str)))
    modalities = list(dict.fromkeys(points["hidden_modality"].astype(str)))
    settings = [where for where in WHERE_TITLES if (points["where"] == where).any()]
    figure.set_size_inches(1.0 + 3.7 * len(modalities), 0.9 + 2.7 * len(settings))
    grid = figure.subplots(len(settings), len(modalities), sharex=True, sharey=True, squeeze=False)
    step = (
        0.006 * np.linspace(-1, 1, len(methods)) if len(methods) > 1 else np.zeros(1)
    )  # so that bars can be told apart
    for line, where in enumerate(settings):
        for column, modality in enumerate(modalities):
            axes, here = (
                grid[line, column],
                points[(points["where"] == where) & (points["hidden_modality"] == modality)],
            )
            axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1)
            for i, method in enumerate(methods):
                _curve(axes, here[here["method"] == method], i, float(step[i]))
            axes.set_title(f"{modality} {WHERE_TITLES[where]}")
            axes.grid(axis="y", color="#E9EBEE", linewidth=0.6)
            axes.set_axisbelow(True)
    for axes in grid[-1]:
        axes.set_xlabel("share of subjects without the scan")
    for axes in grid[:, 0]:
        axes.set_ylabel("AUC on test subjects")
    looks = [_look(i) for i in range(len(methods))]
    handles = [Line2D([], [], label=name, **look) for name, look in zip(methods, looks, strict=True)]
    figure.legend(handles=handles, ncols=min(4, len(handles)), loc="outside lower center")


@as_svg
def mechanisms_figure(figure: Figure, points: pd.DataFrame) -> None:
    """Draw a heat map a method: AUC for each reason in training (rows) and in the test (columns), one scale for all.

    Args:
        figure: drawn on.
        points: as `comparison.mechanisms_table` returns them; cells without an AUC stay white.
    """
    methods, rows, columns = (
        list(dict.fromkeys(points[name].astype(str))) for name in ("method", "training", "tested")
    )
    across = min(3, len(methods))
    down = -(-len(methods) // across)
    figure.set_size_inches(across * (0.9 + 0.62 * len(columns)), down * (0.75 + 0.42 * len(rows)) + 0.6)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    known = points["auc_mean"].astype(float).dropna()
    low, high = min(0.5, known.min()), max(known.max(), 0.51)
    for number, axes in enumerate(grid.flat):
        if number >= len(methods):
            axes.set_visible(False)
            continue
        here = points[points["method"] == methods[number]]
        table = here.pivot(index="training", columns="tested", values="auc_mean").reindex(index=rows, columns=columns)
        values = table.to_numpy(dtype=np.float64)
        axes.imshow(values, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            dark = (value - low) / (high - low) > 0.6
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if dark else INK)
        axes.set_title(methods[number], fontsize=9)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.spines[:].set_visible(False)
    figure.supxlabel("hidden in the test by", fontsize=9)
    figure.supylabel("lost in training by", fontsize=9)


@as_svg
def patients_figure(figure: Figure, points: pd.DataFrame) -> None:
    """Draw AUC with its interval against the number of training patients, a line a method.

    Args:
        figure: drawn on.
        points: as `comparison.patients_table` returns them; points without an AUC are left out.
    """
    methods = list(dict.fromkeys(points["method"].astype(str)))
    figure.set_size_inches(6.5, 4.2)
    axes = figure.subplots()
    axes.axhline(0.5, color=FAINT, linestyle=":", linewidth=1)
    between = 0.01 * float(points["training_patients"].max())  # so that bars can be told apart
    for number, method in enumerate(methods):
        rows = points[points["method"] == method].assign(rate=points["training_patients"])
        _curve(axes, rows, number, between * (number - (len(methods) - 1) / 2) / max(len(methods) - 1, 1))
    axes.grid(axis="y", color="#E9EBEE", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set(xlabel="training patients, mean over repeats", ylabel="AUC on test subjects")
    handles = [Line2D([], [], label=name, **_look(i)) for i, name in enumerate(methods)]
    figure.legend(handles=handles, ncols=min(3, len(handles)), loc="outside lower center")


def imputation_figure(
    rows: Mapping[str, Mapping[str, Volume]],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    convention: str = "radiological",
) -> bytes:
    """Show imputed scans beside the real one, in three planes, as figure 3 of the paper does in one.

    The planes go through the middle of what the real scan shows, and its greys hold for the whole row, so that an
    imputed scan that is too dark is seen to be.

    Args:
        rows: name of the row (a modality) → title of the column → volume (X, Y, Z) in RAS+ order; the first column is
            the real scan. Columns are the same in every row, volumes of a row have the same shape.
        spacing_mm: voxel size.
        convention: "radiological", with the patient's right on the left of the picture and the face to the left, or
            "neurological", the other way round; letters say so.

    Returns:
        PNG.

    Raises:
        ValueError: there are no rows or columns, rows have different columns, a volume is not 3-D, has another shape
            than the real one, or holds a value that is not a finite number.

    Source: HyperMM, figure 3.
    """
    columns = _checked_columns(rows)
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9, "text.parse_math": False}):
        figure, grid = _grid(rows, columns, spacing_mm)
        for line, (name, volumes) in enumerate(rows.items()):
            real = np.asarray(next(iter(volumes.values())), dtype=np.float64)
            low, high = np.percentile(real, (1, 99.5))
            centre = _centre(real)
            for i, (title, volume) in enumerate(volumes.items()):
                for axis in range(3):
                    axes = grid[line, 3 * i + axis]
                    plane = np.take(np.asarray(volume, dtype=np.float64), centre[axis], axis).T
                    across, up = (s for a, s in enumerate(spacing_mm) if a != axis)
                    axes.imshow(
                        plane, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=up / across
                    )
                    if convention == "radiological":
                        axes.invert_xaxis()
                    _bare(axes)
                    _letter(axes, axis, convention)
                    if line == 0 and axis == 1:
                        axes.set_title(title, color=INK)
            grid[line, 0].set_ylabel(name, color=INK)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _grid(
    rows: Mapping[str, Mapping[str, Volume]], columns: list[str], spacing_mm: tuple[float, float, float]
) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Return a figure of three planes for each column, one scale for all, sized by the first volume."""
    x_mm, y_mm, z_mm = np.multiply(np.shape(rows[next(iter(rows))][columns[0]]), spacing_mm)
    widths_mm = [y_mm, x_mm, x_mm] * len(columns)
    inches_per_mm = 4.5 * len(columns) / sum(widths_mm)
    height = 0.3 + len(rows) * inches_per_mm * max(y_mm, z_mm)
    figure = Figure(figsize=(4.5 * len(columns), height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(len(rows), len(widths_mm), squeeze=False, width_ratios=widths_mm)


def _curve(axes: Axes, rows: pd.DataFrame, number: int, shift: float) -> None:
    """Draw one method in one panel: a line through the means, a bar for each interval."""
    rows = rows[np.isfinite(rows["auc_mean"].astype(float))].sort_values("rate")
    if rows.empty:
        return
    look = _look(number)
    x = rows["rate"].to_numpy(dtype=np.float64) + shift
    axes.vlines(x, rows["auc_low"].astype(float), rows["auc_high"].astype(float), color=look["color"], linewidth=0.9)
    axes.plot(x, rows["auc_mean"].astype(float), **look)


def _look(number: int) -> dict[str, Any]:
    """Colour, line and marker of a method, the same in every panel."""
    return {
        "color": PALETTE[number % len(PALETTE)],
        "linestyle": _LINES[number % len(_LINES)],
        "marker": _MARKERS[number % len(_MARKERS)],
        "linewidth": 1.6,
        "markersize": 5,
        "markeredgecolor": "white",
    }


def _bare(axes: Axes) -> None:
    """Remove ticks and frame."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _letter(axes: Axes, axis: int, convention: str) -> None:
    """Write the directions of a plane at its four sides."""
    across, up = (DIRECTIONS[other] for other in range(3) if other != axis)
    left, right = across[::-1] if convention == "radiological" else across
    for name, x, y in ((left, 0.04, 0.5), (right, 0.96, 0.5), (up[1], 0.5, 0.95), (up[0], 0.5, 0.05)):
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": "white"}
        axes.text(
            x, y, name, transform=axes.transAxes, path_effects=[withStroke(linewidth=1.5, foreground="black")], **style
        )


def _centre(volume: npt.NDArray[np.float64]) -> tuple[int, ...]:
    """Return the voxel in the middle of the values above the mean; the middle of the volume if nothing does."""
    inside = np.nonzero(volume > volume.mean())
    if not len(inside[0]):
        return tuple(size // 2 for size in volume.shape)
    return tuple(int(x.min() + x.max() + 1) // 2 for x in inside)


def _checked_columns(rows: Mapping[str, Mapping[str, Volume]]) -> list[str]:
    """Return the titles of the columns."""
    if not rows or not all(rows.values()):
        raise ValueError("there is nothing to show; expected a row with a real and an imputed volume at least")
    columns = list(next(iter(rows.values())))
    for name, volumes in rows.items():
        if list(volumes) != columns:
            raise ValueError(f"row {name!r} has the columns {list(volumes)}; expected {columns} as in the first row")
        shape = np.shape(volumes[columns[0]])
        for title, volume in volumes.items():
            if np.ndim(volume) != 3 or np.shape(volume) != shape:
                raise ValueError(f"{name}, {title}: shape {np.shape(volume)}; expected three axes as in {shape}")
            if not np.isfinite(volume).all():
                raise ValueError(f"{name}, {title}: some voxels are not finite numbers")
    return columns
