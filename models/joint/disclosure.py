"""What several releases of sums tell together that none tells alone: the sums of a few patients, by a difference.

Sums over 20 patients, and later over the same 20 and a new one, give the new one's scores away. So a release is held
against the earlier ones. Each is a list of sets of patients whose sums are known. A few patients are told apart if two
such sets differ by them alone, or if all sets together determine the sum over them: they are an atom, patients who are
in the same sets, whose indicator is a combination of the indicators of the sets.

Combinations of several releases that determine a difference between small atoms, and not the sum over one, are found
for two sets only. Source: Denning 1982, Cryptography and Data Security, section 6.3 (difference and linear attacks).
"""

import itertools
from collections.abc import Collection, Iterable, Sequence

import numpy as np

SMALL = 1e-8  # of a residual; below, it is rounding
Row = tuple[str, ...]  # a patient first, then what tells the patient's rows apart, such as the session


def told_apart(sets: Sequence[Iterable[Row]], new: Sequence[Iterable[Row]], least: int) -> list[tuple[Row, ...]]:
    """Return groups of rows of fewer than `least` patients whose sums, or difference of sums, new sets give away.

    Args:
        sets: of rows whose sums were released before.
        new: sets whose sums are to be released.
        least: patients that a sum has to be over.

    Returns:
        Each group sorted, without those that the earlier sets gave away already; shortest first.
    """
    before = [frozenset(each) for each in sets]
    after = [frozenset(each) for each in new]
    found = set(_by_pairs(before, after, least)) | set(_by_span([*before, *after], least))
    known = set(_by_pairs(before, before, least)) | set(_by_span(before, least))
    return sorted(found - known, key=lambda group: (len(group), group))


def _patients(rows: Collection[Row]) -> int:
    return len({row[0] for row in rows})


def _by_pairs(one: Sequence[frozenset[Row]], other: Sequence[frozenset[Row]], least: int) -> Iterable[tuple[Row, ...]]:
    for a in one:
        for b in other:
            if 0 < _patients(apart := a ^ b) < least:
                yield tuple(sorted(apart))


def _by_span(sets: Sequence[frozenset[Row]], least: int) -> Iterable[tuple[Row, ...]]:
    """Yield small atoms whose indicator is in the span of those of the sets."""
    atoms: dict[tuple[bool, ...], list[Row]] = {}
    for row in sorted(frozenset().union(*sets)):
        atoms.setdefault(tuple(row in each for each in sets), []).append(row)
    if not atoms:
        return
    rows = np.array(list(atoms), dtype=np.float64)  # (atoms, sets): columns are the sets
    vectors, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    kept = vectors[:, sizes > SMALL * sizes[0]]
    rest = np.eye(len(rows)) - kept @ kept.T  # what combinations of the sets leave of an indicator; 0 if they reach it
    members = list(atoms.values())
    small = [number for number, each in enumerate(members) if _patients(each) < least]
    for number in small:
        if np.abs(rest[:, number]).max() < SMALL:
            yield tuple(members[number])
    for one, other in itertools.combinations(small, 2):
        if _patients([*members[one], *members[other]]) >= least:
            continue
        added, taken = (np.abs(rest[:, one] + sign * rest[:, other]).max() for sign in (1, -1))
        if min(added, taken) < SMALL:
            yield tuple(sorted([*members[one], *members[other]]))
