"""Imputed scans with the map of what nobody knows of them: of a new patient, beside real ones, of a hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reporting.figures import INK, as_svg

BACKGROUND = 0.05  # of the range of a volume; less is outside of the head
BRIGHTEST = 0.995  # quantile of standard deviations and errors at the end of their common scale
MOST_DRAWS = 2  # beside a real scan


@dataclass(frozen=True)
class ImputedBeside:
    """An image that was imputed although its scan is there.

    Attributes:
        name: of the patient or session.
        modality: of the scan.
        given: what it was imputed from.
        real: (X, Y, Z) in RAS+ order, or (H, W, 3); float32, about [0, 1].
        mean: best guess, of the same shape.
        sd: standard deviation over draws, of the same shape.
        draws: some draws, (S, …).
        error: of the best guess in the head, root mean square.
        error_without: of the mean training scan.
    """

    name: str
    modality: str
    given: str
    real: NDArray[np.float32]
    mean: NDArray[np.float32]
    sd: NDArray[np.float32]
    draws: NDArray[np.float32]
    error: float
    error_without: float


@dataclass(frozen=True)
class HypothesisImages:
    """What a hypothesis lets expect of a modality, mean over test patients.

    Attributes:
        hypothesis: in a line.
        target: the modality.
        before: expected of the patients' own feature maps, (X, Y, Z) in RAS+ order, or (H, W, 3); about [0, 1].
        after: expected after the move, of the same shape.
        difference: after less before.
        sd: standard deviation of the mean difference.
    """

    hypothesis: str
    target: str
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    difference: NDArray[np.float32]
    sd: NDArray[np.float32]


@as_svg
def imputed_figure(
    figure: Figure, mean: NDArray[np.float32], sd: NDArray[np.float32], draws: NDArray[np.float32], convention: str
) -> None:
    """Draw a scan that was never made: best guess, standard deviation over draws, and some draws.

    Args:
        figure: drawn on.
        mean: (X, Y, Z) in RAS+ order, or (H, W, 3).
        sd: of the same shape.
        draws: (S, …).
        convention: of volumes, "radiological" or "neurological".
    """
    if mean.shape[-1] == 3:
        rows = [[mean], [sd.mean(axis=-1)], list(draws)]
    else:
        box = _box(mean)
        guess, unsure = (_planes(each[box], convention) for each in (mean, sd))
        rows = [guess, unsure, [_planes(each[box], convention)[-1] for each in draws]]
    titles = ("IMPUTED: best guess", "Where we do not know: standard deviation", "IMPUTED: three of the draws")
    columns = max(len(row) for row in rows)
    figure.set_size_inches(2.1 * columns + 0.9, 7.2)
    top = float(np.quantile(sd, 0.999)) or 1.0
    parts: Any = figure.subfigures(3, 1)
    for part, row, title in zip(parts, rows, titles, strict=True):
        part.suptitle(title, x=0.01, ha="left", fontsize=9, color=INK)
        panels = part.subplots(1, columns, squeeze=False)[0]
        for axes in panels:
            axes.set_axis_off()
        for number, (axes, tile) in enumerate(zip(panels, row, strict=False)):
            if row is rows[1]:
                shown = axes.imshow(tile, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
            else:
                axes.imshow(np.clip(tile, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if mean.shape[-1] != 3:
                _letters(axes, sagittal=number == 0 and row is not rows[2], convention=convention)
        if row is rows[1]:
            bar = part.colorbar(shown, ax=panels, shrink=0.8, pad=0.02)
            bar.set_label("of the range 0 to 1")
            bar.outline.set_visible(False)


@as_svg
def beside_figure(figure: Figure, scans: Sequence[ImputedBeside], convention: str) -> None:
    """Draw real scans that were hidden, what was imputed in their place, how unsure that is, and how far off it was.

    Args:
        figure: drawn on.
        scans: of one modality, at least one.
        convention: of volumes, "radiological" or "neurological".
    """
    picture = scans[0].mean.shape[-1] == 3
    drawn = min(MOST_DRAWS, *(len(each.draws) for each in scans))
    titles = [
        "Real, hidden", "IMPUTED:\nbest guess", "Where we do not know:\nstandard deviation",
        "How far off it was:\n|real - best guess|", *(f"IMPUTED:\ndraw {i + 1}" for i in range(drawn)),
    ]  # fmt: skip
    rows: list[tuple[str, list[NDArray[np.float32]]]] = []
    for each in scans:
        off = np.abs(each.real - each.mean)
        images = [each.real, each.mean, each.sd, off, *each.draws[:drawn]]
        if picture:
            rows.append((each.name, [i.mean(-1) if n in (2, 3) else i for n, i in enumerate(images)]))
        else:
            box = _box(each.mean)
            planes = [_planes(image[box], convention)[1:] for image in images]
            rows += [(each.name if plane == 0 else "", [tile[plane] for tile in planes]) for plane in (0, 1)]
    top = float(np.quantile(np.concatenate([tile.ravel() for _, row in rows for tile in row[2:4]]), BRIGHTEST)) or 1.0
    figure.set_size_inches(1.75 * len(titles) + 0.9, 1.85 * len(rows) + 0.6)
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for number, (name, row) in enumerate(rows):
        for column, (axes, tile) in enumerate(zip(panels[number], row, strict=True)):
            axes.set_xticks([])
            axes.set_yticks([])
            if column in (2, 3):
                shown = axes.imshow(tile, cmap="magma", vmin=0, vmax=top, interpolation="nearest")
            else:
                axes.imshow(np.clip(tile, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if not picture:
                _letters(axes, sagittal=False, convention=convention)
            if number == 0:
                axes.set_title(titles[column], fontsize=9, color=INK)
        panels[number][0].set_ylabel(name, fontsize=8, color=INK)
    bar = figure.colorbar(shown, ax=panels, shrink=0.6, pad=0.02)
    bar.set_label("of the range 0 to 1")
    bar.outline.set_visible(False)


@as_svg
def hypothesis_figure(figure: Figure, rows: Sequence[HypothesisImages], convention: str) -> None:
    """Draw for each hypothesis and target the image before and after, the difference and its standard deviation.

    Of volumes, the axial slice in which most differs.

    Args:
        figure: drawn on.
        rows: at least one.
        convention: of volumes, "radiological" or "neurological".
    """
    titles = ("IMPUTED:\nbefore the move", "IMPUTED:\nafter the move", "Difference", "Its standard deviation")
    figure.set_size_inches(9.2, 2.1 * len(rows) + 0.4)
    panels = figure.subplots(len(rows), len(titles), squeeze=False)
    for line, each in zip(panels, rows, strict=True):
        images = [each.before, each.after, each.difference, each.sd]
        if picture := each.before.shape[-1] == 3:
            tiles = [image.mean(axis=-1) for image in images]
        else:
            box = _box(each.before)
            most_differs = int((each.difference[box] ** 2).sum(axis=(0, 1)).argmax())
            tiles = [_planes(image[box][:, :, [most_differs]], convention)[2] for image in images]
        most = float(np.quantile(np.abs(tiles[2:]), BRIGHTEST)) or 1.0
        for number, (axes, tile) in enumerate(zip(line, tiles, strict=True)):
            axes.set_xticks([])
            axes.set_yticks([])
            if number < 2:
                axes.imshow(np.clip(tile, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            else:
                shown = axes.imshow(tile, cmap="PuOr", vmin=-most, vmax=most, interpolation="nearest")
            if not picture:
                _letters(axes, sagittal=False, convention=convention, color="white" if number < 2 else INK)
            if each is rows[0]:
                axes.set_title(titles[number], fontsize=9, color=INK)
        line[0].set_ylabel(f"{each.hypothesis}\n→ {each.target}".replace(" along", "\nalong"), fontsize=8, color=INK)
        bar = figure.colorbar(shown, ax=line, shrink=0.8, pad=0.02)
        bar.set_label("of the range 0 to 1", fontsize=8)
        bar.outline.set_visible(False)


def _letters(axes: Axes, *, sagittal: bool, convention: str, color: str = "white") -> None:
    """Write at its left and right edge which side of the patient that is."""
    sides = "AP" if sagittal else "RL" if convention == "radiological" else "LR"
    for letter, x, place in zip(sides, (0.02, 0.98), ("left", "right"), strict=True):
        axes.text(x, 0.5, letter, transform=axes.transAxes, color=color, ha=place, va="center", fontsize=8)


def _box(volume: NDArray[np.float32]) -> tuple[slice, ...]:
    """Return the part of a volume that is not background, or all of it."""
    inside = np.argwhere(volume > BACKGROUND)
    if len(inside) == 0:
        return (slice(None),) * 3
    return tuple(slice(int(low), int(high) + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))


def _planes(volume: NDArray[np.float32], convention: str) -> list[NDArray[np.float32]]:
    """Return the middle sagittal (front on the left), coronal and axial slice, up is up, (rows, columns) each."""
    x, y, z = (size // 2 for size in volume.shape)
    across = -1 if convention == "radiological" else 1  # the patient's right on the left of the picture
    return [
        volume[x, ::-1, ::-1].T,
        volume[::across, y, ::-1].T,
        volume[::across, ::-1, z].T,
    ]
