"""Averages of what sites send after a round, and what is found wrong with it before.

Nothing here knows a network, a file or NVFlare: names and arrays in, names and arrays out.

Source: McMahan et al. 2017 (FedAvg, weighted by items of each site).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, NDArray[np.float32]]
SMALLEST_CHANGE = 1e-30
MOST_ITEMS = 10_000_000  # of a site; a number is its weight in the average
LARGEST_CHANGE = 10.0  # times the median change of the other sites


@dataclass(frozen=True)
class Update:
    """What a site sends after a round.

    Attributes:
        site: its name.
        settings: hash of the settings that it trained with.
        state: its weights.
        items: training items, its weight in the average.
        owned: items of each modality, (M,); rows of the modality embedding are averaged with these.
        validation_loss: of the weights that it was *given*, on its validation items; None without any.
        validation_items: how many those are.
    """

    site: str
    settings: str
    state: State
    items: int
    owned: NDArray[np.int64]
    validation_loss: float | None = None
    validation_items: int = 0


@dataclass
class Log:
    """What happened, by round.

    Attributes:
        lines: for people.
        refused: (round, site, reason).
    """

    lines: list[str] = field(default_factory=list)
    refused: list[tuple[str, str, str]] = field(default_factory=list)


def screen(
    updates: Sequence[Update], given: State, *, settings: str, modalities: int, largest: float = LARGEST_CHANGE
) -> tuple[list[Update], dict[str, str]]:
    """Leave out updates that must not be averaged.

    Args:
        updates: of one round, in any order.
        given: the weights that all started from.
        settings: hash that all must have.
        modalities: M.
        largest: an update whose change is larger than so many times the median change of the others is left out. With
            one other site that is a comparison of two: the larger is left out. By itself a site cannot be compared.

    Returns:
        The others, sorted by site; and site → reason.
    """
    refused: dict[str, str] = {}
    kept: list[Update] = []
    for update in sorted(updates, key=lambda each: each.site):
        reason = _wrong(update, given, settings, modalities)
        if reason:
            refused[update.site] = reason
        elif update.site in {each.site for each in kept}:
            refused[update.site] = "it sent two updates"
        else:
            kept.append(update)
    kept = [each for each in kept if each.site not in refused]
    change = {update.site: _change(update.state, given) for update in kept}
    for site, size in change.items():
        others = [other for name, other in change.items() if name != site]
        usual = float(np.median(others)) if others else size
        if size > largest * max(usual, SMALLEST_CHANGE):
            times = size / max(usual, SMALLEST_CHANGE)
            refused[site] = f"its weights moved {times:.3g} times as far as those of the others"
    return [update for update in kept if update.site not in refused], refused


def _wrong(update: Update, given: State, settings: str, modalities: int) -> str:
    if update.settings != settings:
        return f"other settings ({update.settings}, not {settings})"
    if update.state.keys() != given.keys():
        return f"other weights ({', '.join(sorted(update.state.keys() ^ given.keys())[:3])})"
    for name, values in update.state.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
            return f"{name} holds no floating point numbers"
        if np.shape(values) != given[name].shape:
            return f"{name} has the shape {np.shape(values)}, not {given[name].shape}"
        if not np.isfinite(values).all():
            return f"{name} holds numbers that are not finite"
    owned = np.asarray(update.owned)
    if not 1 <= update.items <= MOST_ITEMS or owned.shape != (modalities,) or not (owned >= 0).all():
        return f"{update.items} items, {owned.tolist()} by modality"
    if (owned > MOST_ITEMS).any() or not 0 <= update.validation_items <= MOST_ITEMS:
        return f"more than {MOST_ITEMS:,} items of a modality or of validation"
    if update.validation_loss is not None and not np.isfinite(update.validation_loss):
        return "its validation loss is not finite"
    return ""


def _change(state: State, given: State) -> float:
    squares = [np.square(state[name].astype(np.float64) - given[name].astype(np.float64)).sum() for name in given]
    return float(np.sqrt(np.sum(squares)))


def average(
    updates: Sequence[Update], given: State, *, rows: frozenset[str], fixed: frozenset[str]
) -> dict[str, NDArray[np.float32]]:
    """Average the weights of sites.

    Args:
        updates: that passed `screen`; at least one.
        given: the weights that all started from.
        rows: names of arrays with one row a modality, (M, …): each row is averaged over the sites that have scans of
            it, by how many; a row that nobody has stays as it was.
        fixed: names of arrays that stay as they were, such as statistics of the input.

    Raises:
        ValueError: no update.
    """
    if not updates:
        raise ValueError("no update to average")
    items = np.array([update.items for update in updates], dtype=np.float64)
    owned = np.stack([update.owned for update in updates]).astype(np.float64)  # (sites, M)
    out: dict[str, NDArray[np.float32]] = {}
    for name, before in given.items():
        if name in fixed:
            out[name] = before
            continue
        share = items / items.sum()
        if name in rows:
            share = owned / np.maximum(owned.sum(axis=0), 1)
            share = share.reshape(*share.shape, *[1] * (before.ndim - 1))
        mixed = np.zeros(before.shape)
        for weight, update in zip(share, updates, strict=True):  # one after the other: φ has 19 million numbers a site
            mixed += weight * update.state[name].astype(np.float64)
        if name in rows:
            nobody = owned.sum(axis=0) == 0
            mixed[nobody] = before[nobody]
        out[name] = mixed.astype(np.float32)
    return out


Losses = Mapping[str, tuple[float, int]]  # site → validation loss, items


def losses_of(updates: Sequence[Update]) -> dict[str, tuple[float, int]]:
    """Return the validation loss of the weights that were given, for the sites that have such items."""
    return {
        each.site: (each.validation_loss, each.validation_items)
        for each in updates
        if each.validation_loss is not None and each.validation_items > 0
    }


def mean_loss(losses: Losses, sites: Iterable[str]) -> float | None:
    """Return the validation loss over some sites, each by its items; None if none of them has any."""
    some = [losses[site] for site in sites if site in losses]
    return float(np.average([loss for loss, _ in some], weights=[items for _, items in some])) if some else None


def is_better(new: Losses, best: Losses) -> bool:
    """Return whether weights are better than others, judged by the sites that have judged both.

    A site that was missed in one of the two rounds would otherwise make a round better by its absence.
    """
    both = new.keys() & best.keys()
    a, b = mean_loss(new, sorted(both)), mean_loss(best, sorted(both))
    return a is not None and b is not None and a < b
