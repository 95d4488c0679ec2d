"""The section of the report on questions asked in silico: effects, controls, where on the feature map, images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from reporting.figures import FAINT, INK, PALETTE, as_svg
from reporting.formatting import interval, is_number, number
from reporting.imputed_figures import HypothesisImages, hypothesis_figure
from reporting.pages import data_uri
from reporting.tables import Table

CLASS = "class"
SURE = 0.05  # of p after Holm's correction
MOST_MAPS = 8
_CONTROLS = ("permuted", "random")


@dataclass(frozen=True)
class Hypotheses:
    """What the stage hypothesise left.

    Attributes:
        effects: as `effects.csv`.
        maps: as `maps.csv`.
        facts: positive, inside, repeats, and shrinkage of each.
        images: of hypotheses and targets that can be decoded.
        convention: of volumes, "radiological" or "neurological".
    """

    effects: pd.DataFrame
    maps: pd.DataFrame
    facts: Mapping[str, Any]
    images: Sequence[HypothesisImages] = ()
    convention: str = "radiological"


def hypotheses_section(page: Hypotheses) -> dict[str, Any]:
    """Return the variables of `hypotheses.html.j2`."""
    effects = page.effects
    once = effects.drop_duplicates("hypothesis").to_dict("records")
    asked = effects[effects["target"].notna() & (effects["target"] != "")]
    surest = _surest(asked)
    maps = page.maps[[key in surest for key in zip(page.maps["hypothesis"], page.maps["target"], strict=True)]]
    images = sorted(
        (each for each in page.images if (each.hypothesis, each.target) in surest),
        key=lambda each: surest.index((each.hypothesis, each.target)),
    )
    return {
        "positive": page.facts["positive"],
        "repeats": page.facts["repeats"],
        "shrinkage": number(float(np.mean(page.facts["shrinkage"]))),
        "effects": _effects(asked, str(page.facts["positive"])),
        "forest": data_uri(effects_figure(asked, str(page.facts["positive"]))) if len(asked) else "",
        "maps": data_uri(maps_figure(maps)) if len(maps) else "",
        "images": data_uri(hypothesis_figure(images, page.convention)) if images else "",
        "images_left_out": len(page.images) - len(images),
        "sentences": [_sentence(row, str(page.facts["positive"])) for row in asked.to_dict("records")],
        "loud": [_loud(row, name) for row in asked.to_dict("records") for name in _CONTROLS if _speaks(row, name)],
        "notes": [f"{row['hypothesis']}: {row['note']}" for row in once if row["note"]],
        "association": bool((effects["held"] == "").any()),
    }  # fmt: skip


def _unit(target: str, positive: str) -> str:
    return f"probability of {positive}" if target == CLASS else "sd along its class axis"


def _effects(effects: pd.DataFrame, positive: str) -> Table:
    headers = ["Hypothesis", "Target", "In", "Patients", "Change", "95 % interval", "p (Holm)"]
    headers += ["Pairings permuted", "Random direction"]
    rows = []
    for row in effects.to_dict("records"):
        controls = [
            f"{number(row[name], 3)} ({interval(row[f'{name}_low'], row[f'{name}_high'], 3)})"
            if is_number(row[name])
            else "–"
            for name in _CONTROLS
        ]
        target = "class" if row["target"] == CLASS else str(row["target"])
        rows.append(
            (str(row["hypothesis"]), target, _unit(row["target"], positive), f"{row['patients']:,}",
             number(row["effect"], 3), interval(row["low"], row["high"], 3), number(row["p_holm"], 3), *controls)
        )  # fmt: skip
    return Table(tuple(headers), tuple(rows), frozenset(range(3, 7)))


def _speaks(row: Mapping[str, Any], control: str) -> bool:
    """Return whether the interval of a control does not hold 0."""
    return is_number(row[control]) and not row[f"{control}_low"] <= 0 <= row[f"{control}_high"]


def _loud(row: Mapping[str, Any], control: str) -> str:
    name = "with permuted pairings" if control == "permuted" else "along random directions"
    return (
        f"{row['hypothesis']}, {row['target']}: the control {name} is not silent ({number(row[control], 3)}, "
        f"{interval(row[f'{control}_low'], row[f'{control}_high'], 3)}); do not believe the effect beside it"
    )


def _sentence(row: Mapping[str, Any], positive: str) -> str:
    """Say in a sentence what was found, and that it is an association where nothing more is known."""
    target = f"the probability of {positive}" if row["target"] == CLASS else str(row["target"])
    unit = "" if row["target"] == CLASS else " sd"
    found = f"{number(row['effect'], 2)}{unit}, 95 % interval {interval(row['low'], row['high'])}"
    if not is_number(row["p_holm"]) or row["p_holm"] >= SURE:
        return f"{row['hypothesis']}: {target} would differ by {found}. No difference is shown ({row['says']})."
    return f"{row['hypothesis']}: {target} would differ by {found} ({row['says']})."


def _surest(effects: pd.DataFrame) -> list[tuple[str, str]]:
    """Return hypothesis and target of the surest effects, whose maps and images are shown."""
    order = effects[effects["target"] != CLASS].sort_values("p_holm", kind="stable").head(MOST_MAPS)
    return list(zip(order["hypothesis"], order["target"], strict=True))


@as_svg
def effects_figure(figure: Figure, effects: pd.DataFrame, positive: str) -> None:
    """Draw effects with intervals, and their controls below each, a panel for modalities and one for the class.

    Args:
        figure: drawn on.
        effects: as `effects.csv`.
        positive: name of the class whose probability changes.
    """
    panels = [
        (title, effects[mask])
        for title, mask in (
            ("other modalities, sd along the class axis", effects["target"] != CLASS),
            (f"probability of {positive}", effects["target"] == CLASS),
        )
        if mask.any()
    ]
    figure.set_size_inches(9.2, 0.9 + 0.42 * sum(len(rows) for _, rows in panels) + 0.7 * len(panels))
    heights = [len(rows) + 1.2 for _, rows in panels]
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    series = (
        ("effect", "low", "high", PALETTE[0], "o"),
        ("permuted", "permuted_low", "permuted_high", PALETTE[1], "s"),
        ("random", "random_low", "random_high", PALETTE[4], "^"),
    )
    for axis, (title, rows) in zip(axes, panels, strict=True):
        place = np.arange(len(rows), dtype=float)
        axis.axvline(0, color=FAINT, linewidth=0.8)
        for offset, (name, low, high, colour, marker) in zip((-0.22, 0.08, 0.3), series, strict=True):
            values = rows[[name, low, high]].to_numpy(dtype=float)
            axis.hlines(place + offset, values[:, 1], values[:, 2], color=colour, linewidth=1.2)
            axis.plot(values[:, 0], place + offset, marker, color=colour, markersize=4, linestyle="none")
        texts = [f"{h} → {t}" for h, t in zip(rows["hypothesis"], rows["target"], strict=True)]
        axis.set_yticks(place, texts)
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_title(title)
    names = ("effect", "control: pairings permuted", "control: random directions")
    figure.legend(  # outside, where no interval lies
        handles=[
            Line2D([], [], color=colour, marker=marker, linestyle="-", markersize=4, label=name)
            for name, (*_, colour, marker) in zip(names, series, strict=True)
        ],
        loc="outside lower center",
        ncols=3,
        labelcolor=INK,
    )


@as_svg
def maps_figure(figure: Figure, maps: pd.DataFrame) -> None:
    """Draw where on the target's feature map the change is, and beside it its standard deviation.

    Args:
        figure: drawn on.
        maps: as `maps.csv`, of some hypotheses and targets.
    """
    groups = list(maps.groupby(["hypothesis", "target"], sort=False))
    figure.set_size_inches(9.2, 2.6 * len(groups))
    panels = figure.subplots(len(groups), 2, squeeze=False)
    for (left, right), ((hypothesis, target), rows) in zip(panels, groups, strict=True):
        change = rows.pivot(index="row", columns="column", values="change").to_numpy()
        sd = rows.pivot(index="row", columns="column", values="sd").to_numpy()
        most = max(float(np.abs(change).max()), float(sd.max()), 1e-9)
        for axis, values, title in ((left, change, f"{hypothesis} → {target}: change"), (right, sd, "its sd")):
            image = axis.imshow(values, cmap="PuOr", vmin=-most, vmax=most)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(title)
            figure.colorbar(image, ax=axis, shrink=0.8)
