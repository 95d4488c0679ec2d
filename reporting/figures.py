"""Figures of the report, drawn with matplotlib's object interface and returned as SVG bytes.

The same data give the same bytes: the hash salt is fixed, no date is written, letters are drawn as outlines. Colours
are those of Okabe and Ito (2008), told apart by colour-blind readers; where it can, line style or lightness repeats
what colour says, so that a grey print can be read.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from sklearn.calibration import calibration_curve

from evaluation.curves import mean_roc, roc_points
from evaluation.intervals import probability_columns

Arguments = ParamSpec("Arguments")

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STATE_COLOURS = {"used": "#1F5C8B", "failed": "#D55E00", "hidden": "#F2C14E", "absent": "#E9EBEE"}
SPLIT_ORDER = ("train", "validation", "test")
INK, FAINT = "#222222", "#9AA0A6"
_STYLE: dict[str, Any] = {
    "svg.hashsalt": "hypermm",
    "svg.fonttype": "path",
    "text.parse_math": False,  # subjects and modalities may hold a dollar sign
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def as_svg(draw: Callable[Concatenate[Figure, Arguments], None]) -> Callable[Arguments, bytes]:
    """Turn a function that draws on a figure into one that returns SVG bytes."""

    @wraps(draw)
    def rendered(*args: Arguments.args, **kwargs: Arguments.kwargs) -> bytes:
        with mpl.rc_context(_STYLE):
            figure = Figure(layout="constrained")
            FigureCanvasSVG(figure)
            draw(figure, *args, **kwargs)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return buffer.getvalue()

    return rendered


@as_svg
def availability_figure(
    figure: Figure, observations: pd.DataFrame, availability: pd.DataFrame, splits: dict[str, str]
) -> None:
    """Draw which observation has which modality, one column per observation, sorted by split, label and pattern.

    Args:
        figure: drawn on.
        observations: columns `observation`, `subject`, `label`.
        availability: columns `observation`, `modality`, `state` (used, hidden, failed). With several scans of one
            modality, used is shown before failed before hidden.
        splits: subject → split in the repeat shown.
    """
    modalities = sorted(availability["modality"].astype(str).unique())
    ranked = availability.assign(rank=availability["state"].map({"used": 0, "failed": 1, "hidden": 2}))
    best = ranked.sort_values("rank").drop_duplicates(["observation", "modality"])
    states = best.pivot(index="observation", columns="modality", values="state")
    table = observations[["observation", "subject", "label"]].astype(str).join(states, on="observation")
    table[modalities] = table[modalities].fillna("absent")
    table["split"] = table["subject"].map(splits).fillna("excluded")
    rank = {split: i for i, split in enumerate((*SPLIT_ORDER, "excluded"))}
    table["order"] = table["split"].map(rank).fillna(len(rank))
    table = table.sort_values(
        ["order", "split", "label", *modalities], ascending=[True, True, True] + [False] * len(modalities)
    )
    labels = sorted(table["label"].unique())
    label_colours = {name: str(grey) for name, grey in zip(labels, np.linspace(0.62, 0.86, len(labels)), strict=True)}

    figure.set_size_inches(9.2, 1.35 + 0.34 * len(modalities))
    axes = figure.subplots()
    lines = [*modalities, "label"]
    colours = {**dict.fromkeys(modalities, STATE_COLOURS), "label": label_colours}
    for line, name in enumerate(lines):
        for start, stop, value in _runs(table[name].tolist()):
            axes.barh(line, stop - start, left=start, height=0.82, color=colours[name][value], linewidth=0)
            if name == "label" and stop - start > 0.08 * len(table):
                axes.text((start + stop) / 2, line, value, ha="center", va="center")
    _name_splits(axes, table["split"].tolist(), len(modalities) + 1)
    if len(table) <= 120:
        for edge in range(1, len(table)):
            axes.plot([edge, edge], [-0.45, len(modalities) - 0.55], color="white", linewidth=0.6)
    axes.set(xlim=(0, max(1, len(table))), ylim=(len(lines) + 0.5, -0.5), yticks=range(len(lines)), yticklabels=lines)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    handles = [Patch(color=colour, label=state) for state, colour in STATE_COLOURS.items()]
    handles += [Patch(color=colour, label=f"label {name}") for name, colour in label_colours.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)))


@as_svg
def learning_curves(figure: Figure, history: pd.DataFrame) -> None:
    """Draw training (dashed) and validation (solid) loss per epoch, a colour per repeat, a dot at the epoch kept.

    Args:
        figure: drawn on.
        history: columns `repeat`, `epoch`, `train_loss`, `validation_loss`, `best` (bool).
    """
    figure.set_size_inches(4.6, 3.4)
    axes = figure.subplots()
    repeats = sorted(history["repeat"].unique())
    for repeat, colour in zip(repeats, _colours(len(repeats)), strict=True):
        rows = history[history["repeat"] == repeat].sort_values("epoch")
        axes.plot(rows["epoch"], rows["train_loss"], color=colour, linestyle=(0, (3, 2)), linewidth=1, alpha=0.8)
        axes.plot(rows["epoch"], rows["validation_loss"], color=colour, linewidth=1.6)
        kept = rows[rows["best"].astype(bool)]
        height = kept["validation_loss"].fillna(kept["train_loss"])  # no validation: the training loss chose
        axes.plot(kept["epoch"], height, "o", color=colour, markeredgecolor="white", markersize=7)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linestyle=(0, (3, 2)), linewidth=1, label="training"),
        Line2D([], [], color=INK, linewidth=1.6, label="validation"),
        Line2D([], [], color=INK, marker="o", linestyle="", markeredgecolor="white", markersize=7, label="epoch kept"),
    ]
    if 1 < len(repeats) <= 6:
        handles += [Patch(color=c, label=f"repeat {r}") for r, c in zip(repeats, _colours(len(repeats)), strict=True)]
    figure.legend(handles=handles, ncols=3, loc="outside lower center")
    axes.set(xlabel="epoch", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    axes.grid(axis="y", color="#E3E5E8", linewidth=0.6)


@as_svg
def penalty_curves(figure: Figure, history: pd.DataFrame) -> None:
    """Draw the loss of held-out training subjects per penalty, a colour per repeat, a dot at the penalty chosen.

    Args:
        figure: drawn on.
        history: columns `repeat`, `penalty`, `held_out_loss`, `best` (bool).
    """
    figure.set_size_inches(4.6, 3.4)
    axes = figure.subplots()
    repeats = sorted(history["repeat"].unique())
    for repeat, colour in zip(repeats, _colours(len(repeats)), strict=True):
        rows = history[history["repeat"] == repeat].sort_values("penalty")
        axes.plot(rows["penalty"], rows["held_out_loss"], color=colour, linewidth=1.6)
        kept = rows[rows["best"].astype(bool)]
        axes.plot(kept["penalty"], kept["held_out_loss"], "o", color=colour, markeredgecolor="white", markersize=7)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, linewidth=1.6, label="held-out training subjects"),
        Line2D([], [], color=INK, marker="o", linestyle="", markeredgecolor="white", markersize=7, label="chosen"),
    ]
    if 1 < len(repeats) <= 6:
        handles += [Patch(color=c, label=f"repeat {r}") for r, c in zip(repeats, _colours(len(repeats)), strict=True)]
    figure.legend(handles=handles, ncols=2, loc="outside lower center")
    axes.set(xlabel="penalty", ylabel="loss", xscale="log")
    axes.margins(y=0.12)
    axes.grid(axis="y", color="#E3E5E8", linewidth=0.6)


@as_svg
def roc_figure(figure: Figure, predictions: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Draw the ROC curve of every repeat (thin) and their mean (thick); one class against the rest if K > 2.

    Args:
        figure: drawn on.
        predictions: as in `evaluation.intervals`.
        classes: names of the classes, in order.
    """
    figure.set_size_inches(4.4, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1)
    for k, colour in _classes_shown(predictions):
        curves = [roc_points(rows["truth"] == k, rows[f"p_{k}"]) for _, rows in predictions.groupby("repeat")]
        for false, true in curves:
            axes.plot(false, true, color=colour, linewidth=0.8, alpha=0.45)
        mean, suffix = (mean_roc(curves), ", mean of repeats") if len(curves) > 1 else (curves[0], "")
        axes.plot(*mean, color=colour, linewidth=2.4, label=f"{classes[k]}{suffix}")
    _square(axes, "false positive rate (1 − specificity)", "true positive rate (sensitivity)")
    axes.legend(loc="lower right")


@as_svg
def calibration_figure(figure: Figure, predictions: pd.DataFrame, classes: tuple[str, ...]) -> None:
    """Draw observed against predicted frequency in bins of equal count, all repeats together; the legend says how many.

    Args:
        figure: drawn on.
        predictions: as in `evaluation.intervals`.
        classes: names of the classes, in order.
    """
    figure.set_size_inches(4.4, 4.4)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=FAINT, linestyle=":", linewidth=1)
    bins = int(np.clip(len(predictions) // 12, 2, 10))
    for k, colour in _classes_shown(predictions):
        observed, mean = calibration_curve(
            predictions["truth"] == k,
            predictions[f"p_{k}"].clip(0, 1),
            pos_label=True,
            n_bins=bins,
            strategy="quantile",
        )
        size = f"about {len(predictions) / len(mean):.0f} rows a bin"
        axes.plot(mean, observed, "o-", color=colour, linewidth=1.6, markersize=6, label=f"{classes[k]}, {size}")
    _square(axes, "predicted probability", "observed share")
    axes.legend(loc="upper left")


@as_svg
def subset_forest(figure: Figure, subsets: pd.DataFrame, groups: dict[str, str]) -> None:
    """Draw the AUC of every subset of modalities with its interval, group by group.

    Args:
        figure: drawn on.
        subsets: columns `modalities`, `subjects`, `n`, `auc_mean`, `auc_low`, `auc_high`.
        groups: value of `subjects` → title of the group, in the order shown.
    """
    shown = [(title, subsets[subsets["subjects"] == group]) for group, title in groups.items()]
    shown = [(title, rows) for title, rows in shown if len(rows)]
    heights = [len(rows) + 1.6 for _, rows in shown]
    figure.set_size_inches(8.6, 0.7 + 0.27 * sum(heights))
    every_axes = figure.subplots(len(shown), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})[
        :, 0
    ]
    ends = subsets[["auc_low", "auc_high", "auc_mean"]].to_numpy(dtype=np.float64)
    lowest = min(0.4, float(np.nanmin(ends)) - 0.03) if np.isfinite(ends).any() else 0.4
    for axes, (title, rows), colour in zip(every_axes, shown, PALETTE, strict=False):
        axes.axvline(0.5, color=FAINT, linestyle=":", linewidth=1)
        for line, row in enumerate(rows.to_dict("records")):
            mean, low, high = (float(row[f"auc_{end}"]) for end in ("mean", "low", "high"))
            axes.plot([low, high], [line, line], color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(mean, line, "D", color=colour, markeredgecolor="white", markersize=6.5)
            text = f"{mean:.2f}  (n={int(row['n'])})" if np.isfinite(mean) else f"n/a  (n={int(row['n'])})"
            axes.text(1.02, line, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())
        axes.set(yticks=range(len(rows)), yticklabels=rows["modalities"], ylim=(len(rows) - 0.4, -0.6), title=title)
        axes.set_xlim(lowest, 1.01)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="#E9EBEE", linewidth=0.6)
        axes.set_axisbelow(True)
    every_axes[-1].set_xlabel("AUC on test subjects, with its interval")


def _classes_shown(predictions: pd.DataFrame) -> list[tuple[int, str]]:
    """Class indices to draw, with colours: the positive class of two, or every class against the rest."""
    n_classes = len(probability_columns(predictions))
    return [(1, PALETTE[0])] if n_classes == 2 else list(enumerate(_colours(n_classes)))


def _colours(amount: int) -> list[str]:
    """Return so many colours, the palette over again where it runs out."""
    return [PALETTE[i % len(PALETTE)] for i in range(amount)]


def _square(axes: Axes, x_label: str, y_label: str) -> None:
    """Dress axes that run from 0 to 1 both ways."""
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel=x_label, ylabel=y_label)
    axes.grid(color="#E9EBEE", linewidth=0.6)
    axes.set_axisbelow(True)


def _name_splits(axes: Axes, splits: list[str], line: int) -> None:
    """Write the name and size of every split below its columns, and draw a line between splits.

    Names of narrow neighbours go one below the other.
    """
    previous_narrow = False
    for start, stop, split in _runs(splits):
        narrow = stop - start < 0.12 * len(splits)
        lower = 0.62 if narrow and previous_narrow else 0.0
        last = narrow and stop == len(splits)
        axes.text(stop if last else (start + stop) / 2, line - 0.2 + lower, f"{split} ({stop - start})",
                  ha="right" if last else "center", va="center")  # fmt: skip
        if stop < len(splits):
            axes.plot([stop, stop], [-0.5, line - 0.5], color=INK, linewidth=1.2)
        previous_narrow = narrow and not lower


def _runs(values: list[str]) -> list[tuple[int, int, str]]:
    """Return (start, stop, value) of every stretch of equal values."""
    edges = [i for i in range(len(values)) if i == 0 or values[i] != values[i - 1]]
    return [(start, stop, values[start]) for start, stop in zip(edges, [*edges[1:], len(values)], strict=True)]
