"""Assign subjects to train, validation and test, once; assignments stay frozen.

A split is by subject, never by scan or session. Its table has one row a repeat and subject: `repeat` (int64, from 1),
`subject` (str), `split` (str: train, validation or test).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from cohort.mechanisms import Missing
from cohort.names import canonical

SPLITS = ("train", "validation", "test")
SUBJECT = "subject"

Share = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SplitConfig(BaseModel):
    """How subjects are assigned to train, validation and test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ratio: tuple[Share, Share, Share] = Field(default=(6, 1, 3), description="train : validation : test, each above 0")
    repeats: int = Field(default=3, ge=1, description="number of repeats, each with its own split")
    seed: int = Field(default=0, ge=0, description="another seed gives other splits")
    by: str = Field(
        default=SUBJECT,
        min_length=1,
        description="subject: at random; or a column of cohort.covariates, such as site, whose values are tested in "
        "turn, by models that never saw them",
    )
    missing: dict[str, Missing] = Field(
        default={},
        description="modality → share of its subjects whose scans are hidden, in every split; or {share, mechanism, "
        "slope, of, value}",
    )
    new_subjects: Literal["leave_out", "train", "test", "split"] = Field(
        default="leave_out", description="what happens to subjects that came after the splits were frozen"
    )


class Reconciled(NamedTuple):
    """Frozen splits merged with the current subjects."""

    splits: pd.DataFrame
    """The frozen rows, unchanged, and below them the rows of the new subjects."""
    new: tuple[str, ...]
    """Subjects that are not in the frozen splits, whether left out or added."""
    missing: tuple[str, ...]
    """Subjects of the frozen splits that the manifest no longer has; their rows stay."""
    moved: tuple[str, ...]
    """Subjects for which the manifest now gives another split than the frozen one; the frozen one is used."""


def subjects_of(observations: pd.DataFrame) -> pd.DataFrame:
    """Return one row a subject, labelled as in its last session.

    Sessions are sorted by name, with numbers compared as numbers: ses-2 comes before ses-10.

    Args:
        observations: str columns `subject`, `session`, `label`, `split`.

    Returns:
        str columns `subject`, `label`, `split`, sorted by subject.
    """
    by_session = observations.sort_values("session", key=lambda names: names.map(natural_order), kind="stable")
    last = by_session.drop_duplicates("subject", keep="last").sort_values("subject")
    return last[["subject", "label", "split"]].reset_index(drop=True)


def make_splits(subjects: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    """Assign subjects to splits, stratified by label; the order of the rows does not matter.

    Every class has a subject in train and in test, and in validation where it has three. Beyond that, a class gets the
    ratio by largest remainder, and rounding errors of one class are compensated in the next. Where the
    manifest gives the split, every repeat has that one.

    Args:
        subjects: str columns `subject` (unique), `label`, `split` ("" or one of `SPLITS`), as from `subjects_of`.
        config: ratio, repeats and seed.

    Returns:
        The splits, sorted by repeat and subject.

    Raises:
        ValueError: A subject is duplicated, a class has a single subject, or the given split cannot be used.
    """
    if subjects["subject"].duplicated().any():
        twice = subjects.loc[subjects["subject"].duplicated(), "subject"].iloc[0]
        raise ValueError(f"subject {twice!r} has two rows; make_splits takes one row a subject, see subjects_of")
    if problems := given_split_problems(subjects):
        raise ValueError("\n".join(problems))
    repeats = range(1, config.repeats + 1)
    if subjects["split"].ne("").any():
        given = dict(zip(subjects["subject"], subjects["split"], strict=True))
        return _table({repeat: given for repeat in repeats})
    sizes = subjects["label"].value_counts()
    if len(sizes) and sizes.min() < 2:
        raise ValueError(f"class {sizes.idxmin()!r} has one subject; it needs one to train on and one to test on")
    none_held = pd.DataFrame({"label": [], "split": []}, dtype=str)
    return _table({repeat: _assign(subjects, none_held, config, repeat, spread=True) for repeat in repeats})


def make_splits_by(subjects: pd.DataFrame, sites: pd.Series, config: SplitConfig) -> pd.DataFrame:
    """Assign whole sites to the test part, each site in one repeat; no site is on both sides.

    With as many repeats as sites or more, the test part of a repeat is one site, and there are as many repeats as
    sites. With fewer, sites are grouped into parts of about equal numbers of subjects. A part without a subject of
    every class is joined with the smallest other one. The other subjects are train and validation in the first two
    shares of the ratio, stratified by label.

    Args:
        subjects: as for `make_splits`.
        sites: subject (index) → site; "" for none.
        config: `by` names the column, for messages; `repeats` is how many parts there are at most.

    Raises:
        ValueError: a subject has no site, there is a single site, the manifest gives the split, or no two parts have
            subjects of every class.
    """
    if subjects["split"].ne("").any():
        raise ValueError(f"the manifest gives the split, and split.by is {config.by}; leave one of them out")
    site_of = sites.reindex(subjects["subject"]).fillna("")
    if len(without := sorted(site_of.index[site_of == ""])):
        raise ValueError(
            f"split.by is {config.by}, and {len(without)} subjects have none: {_few(without)}; give it, or leave them "
            "out"
        )
    if site_of.nunique() < 2:
        raise ValueError(
            f"split.by is {config.by}, and all subjects have the same ({site_of.iloc[0]}); it takes two, one to test on"
        )
    parts = _parts(subjects.set_index("subject")["label"], site_of, config)
    two_way = config.model_copy(update={"ratio": (*config.ratio[:2], 0)})
    none_held = pd.DataFrame({"label": [], "split": []}, dtype=str)
    assigned = {}
    for repeat, tested in enumerate(parts, 1):
        here = subjects["subject"].map(site_of).isin(tested)
        others = _assign(subjects[~here], none_held, two_way, repeat, spread=True)
        assigned[repeat] = others | dict.fromkeys(subjects.loc[here, "subject"], "test")
    return _table(assigned)


def on_both_sides(splits: pd.DataFrame, sites: pd.Series) -> list[str]:
    """Return the sites with subjects both in the test part and out of it in one repeat, sorted; expected to be none.

    Args:
        splits: as `make_splits_by` returns them.
        sites: subject (index) → site.
    """
    sides = splits.assign(site=splits["subject"].map(sites), tested=splits["split"] == "test").dropna(subset="site")
    counts = sides.groupby(["repeat", "site"])["tested"].nunique()
    return sorted(set(counts.index[counts > 1].get_level_values("site")))


def _parts(labels: pd.Series, site_of: pd.Series, config: SplitConfig) -> list[list[str]]:
    """Group sites into the test parts of the repeats."""
    sizes = site_of.value_counts()
    by_size = sorted(sizes.index, key=lambda site: (-sizes[site], site))
    parts: list[list[str]] = [[] for _ in range(min(config.repeats, len(by_size)))]
    for site in by_size:
        min(parts, key=lambda part: sizes[part].sum()).append(site)
    classes = set(labels)

    def lacks_a_class(part: list[str]) -> bool:
        return set(labels[site_of.index[site_of.isin(part)]]) != classes

    while lacking := [part for part in parts if lacks_a_class(part)]:
        joined = lacking[0]
        parts.remove(joined)
        if len(parts) < 2:
            raise ValueError(
                f"split.by is {config.by}, and its values cannot be put into two parts that both have subjects of "
                f"{', '.join(sorted(classes))}; split at random (split.by: {SUBJECT})"
            )
        min(parts, key=lambda part: sizes[part].sum()).extend(joined)
    return [sorted(part) for part in parts]


def given_split_problems(subjects: pd.DataFrame) -> list[str]:
    """List the problems of the split given by the manifest; empty if there are none, or no split."""
    given = subjects[subjects["split"] != ""]
    if given.empty:
        return []
    missing = sorted(set(subjects["subject"]) - set(given["subject"]))
    problems = []
    if missing:
        problems.append(f"split is given for {len(given)} subjects, not for {_few(missing)}; give it for all or none")
    problems += [f"split puts no subject in {name}" for name in SPLITS if name not in set(given["split"])]
    untaught = sorted(set(given["label"]) - set(given.loc[given["split"] == "train", "label"]))
    return problems + [f"split puts no subject of class {label!r} in train" for label in untaught]


def check_frozen(frozen: pd.DataFrame) -> None:
    """Check that a table of frozen splits is valid.

    Raises:
        ValueError: Its columns, repeats, splits or subjects are damaged; the message lists all problems.
    """
    if problems := list(_damage(frozen)):
        raise ValueError("the frozen splits are damaged: " + "; ".join(problems))


def reconcile(frozen: pd.DataFrame, subjects: pd.DataFrame, config: SplitConfig) -> Reconciled:
    """Reuse frozen splits for the current subjects.

    The number of repeats is that of the frozen table. With `new_subjects: split`, a new subject gets the split of the
    manifest; without one it gets a split that is short of its class, in each repeat independently.

    Args:
        frozen: Splits as `make_splits` or this function returned them.
        subjects: str columns `subject` (unique), `label`, `split`.
        config: `new_subjects`, and for `split` the ratio and the seed.

    Raises:
        ValueError: The frozen splits are damaged, or have a subject in another spelling.
    """
    check_frozen(frozen)
    known = set(frozen["subject"])
    current = dict(zip(subjects["subject"], subjects["split"], strict=True))
    new = subjects[~subjects["subject"].isin(known)]
    written = {canonical(name): name for name in known}
    renamed = [f"{name!r} is {written[canonical(name)]!r}" for name in new["subject"] if canonical(name) in written]
    if renamed:
        raise ValueError(
            f"the frozen splits have {len(renamed)} subjects in another spelling: {', '.join(renamed[:3])}"
            f"{' …' if len(renamed) > 3 else ''}; write them in the manifest as they were"
        )
    at_odds = [
        current.get(name, "") not in ("", split) for name, split in zip(frozen["subject"], frozen["split"], strict=True)
    ]
    added: dict[int, dict[str, str]] = {}
    for repeat, held in frozen.groupby("repeat"):
        if config.new_subjects == "split":
            assigned = _assign(
                new[new["split"] == ""],
                held.merge(subjects.drop(columns="split"), on="subject"),
                config,
                repeat,
                spread=False,
            )
            added[repeat] = {name: current[name] or assigned[name] for name in new["subject"]}
        elif config.new_subjects != "leave_out":
            added[repeat] = dict.fromkeys(new["subject"], config.new_subjects)
    splits = pd.concat([frozen, _table(added)], ignore_index=True) if added and len(new) else frozen.copy()
    return Reconciled(
        splits=splits,
        new=tuple(sorted(new["subject"])),
        missing=tuple(sorted(known - set(current))),
        moved=tuple(sorted(set(frozen.loc[at_odds, "subject"]))),
    )


def leaked(saw: Iterable[str], splits: pd.DataFrame, repeat: int) -> tuple[str, ...]:
    """Return, sorted, the subjects in `saw` that are test subjects of this repeat; expected to be empty.

    Raises:
        ValueError: The splits have no such repeat.
    """
    rows = splits[splits["repeat"] == repeat]
    if rows.empty:
        raise ValueError(f"there is no repeat {repeat} in the splits, only {sorted(set(splits['repeat']))}")
    return tuple(sorted(set(saw) & set(rows.loc[rows["split"] == "test", "subject"])))


def shuffled(names: Iterable[str], *key: object) -> list[str]:
    """Return names in an order that depends only on them and the key.

    They are ranked by SHA-256: the order is the same on every machine, and a new name does not reorder others.
    """
    return sorted(names, key=lambda name: _digest(name, key))


def uniform(name: str, *key: object) -> float:
    """Return a number in (0, 1) that depends only on a name and the key; `shuffled` sorts by it, the lowest first."""
    return (int.from_bytes(_digest(name, key)[:6]) + 0.5) / 2**48


def _digest(name: str, key: tuple[object, ...]) -> bytes:
    salt = "\0".join(map(str, key))
    return hashlib.sha256(f"{salt}\0{name}".encode()).digest()


def _assign(
    subjects: pd.DataFrame, held: pd.DataFrame, config: SplitConfig, repeat: int, *, spread: bool
) -> dict[str, str]:
    """Return the split of each subject; `held` (label, split) are already assigned and count in the ratio."""
    assigned: dict[str, str] = {}
    short = np.zeros(len(SPLITS))  # how many subjects each split lacks after the classes so far
    for label, members in subjects.groupby("label"):
        names = shuffled(members["subject"], config.seed, repeat)
        before = np.array([((held["label"] == label) & (held["split"] == split)).sum() for split in SPLITS])
        first = _one_each(len(names)) * (np.array(config.ratio) > 0)
        quota = (before.sum() + len(names)) * np.array(config.ratio) / sum(config.ratio)
        counts = before + first * spread
        while counts.sum() < before.sum() + len(names):
            missing = np.round(quota - counts, 9)
            whole = missing >= 1
            wanted = whole if whole.any() else missing > 0
            counts[np.argmax(np.where(wanted, missing + short * ~whole, -np.inf))] += 1
        short += quota - counts
        assigned.update(zip(names, np.repeat(SPLITS, counts - before).tolist(), strict=True))
    return assigned


def _one_each(size: int) -> np.ndarray:
    """Return the initial number of subjects of each split, so that no split lacks a class that is large enough."""
    return np.array([1, 1, 1] if size >= 3 else [1, 0, 1])


def _table(assigned: dict[int, dict[str, str]]) -> pd.DataFrame:
    """Turn repeat → subject → split into a table, sorted by repeat and subject."""
    rows = [(repeat, subject, of[subject]) for repeat, of in sorted(assigned.items()) for subject in sorted(of)]
    return pd.DataFrame(rows, columns=["repeat", "subject", "split"]).astype(
        {"repeat": int, "subject": str, "split": str}
    )


def _damage(frozen: pd.DataFrame) -> Iterator[str]:
    """Yield the problems of frozen splits."""
    if missing := [name for name in ("repeat", "subject", "split") if name not in frozen]:
        yield f"there is no column {' or '.join(missing)}"
        return
    if frozen.empty:
        yield "there are no rows"
    elif not (pd.api.types.is_integer_dtype(frozen["repeat"]) and frozen["repeat"].min() == 1):
        yield "repeat is not a whole number counted from 1"
    elif not frozen["subject"].map(lambda name: isinstance(name, str) and name != "").all():
        yield "subject is empty or a number somewhere (read the column as text, or 001 becomes 1)"
    else:
        twice = frozen[frozen.duplicated(["repeat", "subject"])]
        yield from (
            f"subject {s!r} is twice in repeat {r}" for r, s in zip(twice["repeat"], twice["subject"], strict=True)
        )
        for split in sorted(set(map(str, frozen["split"])) - set(SPLITS)):
            yield f"split {split!r} is none of {', '.join(SPLITS)}"
        for repeat in range(1, frozen["repeat"].max() + 1):
            if lost := sorted(set(frozen["subject"]) - set(frozen.loc[frozen["repeat"] == repeat, "subject"])):
                yield f"repeat {repeat} lacks {_few(lost)}"


def _few(names: list[str]) -> str:
    """Name the first three, count the rest."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def natural_order(name: str) -> tuple[str | int, ...]:
    """Return a sorting key in which numbers compare as numbers; text and numbers alternate."""
    return tuple(int(piece) if i % 2 else piece for i, piece in enumerate(re.split(r"(\d+)", name)))
