"""Hypotheses as text: what is moved, along which direction, how far, and what is held. No numbers are imported here."""

import re
from dataclasses import dataclass

CLASS = "class"
_COMPONENT = re.compile(r"component ([1-9]\d{0,3})")
_REGION = re.compile(r"region ([1-9]\d?)-([1-9]\d?) ([1-9]\d?)-([1-9]\d?)")


@dataclass(frozen=True)
class Along:
    """A direction in the scores of a modality.

    Attributes:
        kind: `class`, `component` or `region`.
        component: number from 0, of a component.
        region: first and last row, first and last column of a feature map, from 0, of a region.
    """

    kind: str
    component: int = 0
    region: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True)
class Question:
    """A hypothesis on one source.

    Attributes:
        source: block that is moved or taken away.
        along: direction; None: the source is taken away.
        by: length in standard deviations over patients along the direction.
        held: blocks, or `class`, that are held fixed.
    """

    source: str
    along: Along | None
    by: float = 1.0
    held: tuple[str, ...] = ()


def parse_along(text: str) -> Along:
    """Return the direction of `class`, `component 3` or `region 2-4 3-5` (rows, then columns, from 1).

    Raises:
        ValueError: it is none of these.
    """
    if text == CLASS:
        return Along(CLASS)
    if found := _COMPONENT.fullmatch(text):
        return Along("component", component=int(found[1]) - 1)
    if found := _REGION.fullmatch(text):
        rows_columns = tuple(int(each) - 1 for each in found.groups())
        first, last, left, right = rows_columns
        if first <= last and left <= right:
            return Along("region", region=(first, last, left, right))
    raise ValueError(f"{text!r}: expected class, component 3, or region 2-4 3-5 (rows and columns of a feature map)")
