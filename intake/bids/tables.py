"""What participants.tsv and the tables of sessions say about a scan; where they are silent, nothing is filled in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cohort.names import broken_ids, canonical, difference, is_missing, spelt_otherwise
from cohort.tables import MOST_LISTED, ManifestError, read_rows, suggest


class Keyed(NamedTuple):
    """A table with a row for each participant or session."""

    rows: dict[str, dict[str, str]]
    """Id, with its prefix → column → cell, as it is written."""
    header: list[str]
    """Columns of the file, without that of the ids."""
    left_out: list[str]
    """Rows that cannot be read, and why."""
    problems: list[str]
    """Why the table cannot be used."""


class Tables(NamedTuple):
    """participants.tsv, and the tables of sessions of the subjects that have one."""

    participants: Keyed
    sessions: dict[str, Keyed]
    columns: Sequence[str]
    """Those that are looked up, the label first."""
    by_session: set[str]
    """Those that any table of sessions has."""
    not_missing: tuple[str, ...]

    def look_up(self, subject: str, session: str, *, several: bool) -> tuple[dict[str, str], str]:
        """Return column → value, "" for none; and why the scan cannot be used, or "".

        Args:
            subject: with its prefix, "sub-01".
            session: the same, "ses-01"; or "".
            several: whether the subject has several sessions.
        """
        if subject not in self.participants.rows:
            return {}, self.without_row(subject)
        known, source = dict(self.participants.rows[subject]), ""
        own = self.sessions.get(subject)
        if several:  # what others have by session does not hold for all sessions
            known |= dict.fromkeys(self.by_session, "")
        if own is not None:
            source = f" in {subject}_sessions.tsv"
            if own.problems:
                return {}, f"{subject}_sessions.tsv cannot be used: {'; '.join(own.problems)}"
            if session not in own.rows:
                return {}, f"{session or 'its session'} has no row{source}{_near(session, own.rows)}"
            known |= own.rows[session]
        word = known.get(self.columns[0], "")
        if is_missing(word, self.not_missing):
            if not source and several and self.columns[0] in self.by_session:
                source = f": others have it by session, {subject} has several sessions and no {subject}_sessions.tsv"
            return {}, f"{self.columns[0]} is missing{source}" + (f" ({word!r})" if word not in ("", "n/a") else "")
        return {name: "" if is_missing(cell, self.not_missing) else cell for name, cell in known.items()}, ""

    def without_row(self, subject: str) -> str:
        """Describe a folder that participants.tsv does not have."""
        near = _near(subject, self.participants.rows)
        return f"{subject} has a folder and no row in participants.tsv{near}"

    def without_scans(self, subjects: Iterable[str], visits: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
        """Return subject, session ("" for all) and a reason for each row that no scan belongs to.

        Args:
            subjects: that have a folder.
            visits: subject and session of every scan that was found.
        """
        subjects, found = set(subjects), defaultdict(set)
        for subject, session in visits:
            found[subject].add(session)
        rows = []
        for subject in self.participants.rows:
            if subject not in subjects:
                rows.append((subject, "", f"in participants.tsv, but it has no folder{_near(subject, subjects)}"))
            elif subject not in found:
                rows.append((subject, "", "no scan of a kind that is read here"))
        for subject, table in self.sessions.items():
            own = found.get(subject, set())
            rows += [
                (subject, session, f"in {subject}_sessions.tsv, but it has no scan of a kind that is read here"
                 f"{_near(session, own)}")
                for session in table.rows if own and session not in own
            ]  # fmt: skip
        return rows


def read_tables(
    root: Path, subjects: Iterable[str], columns: Sequence[str], not_missing: tuple[str, ...] = ()
) -> Tables:
    """Read participants.tsv, which must be there, and `sub-01/sub-01_sessions.tsv` of each subject that has one."""
    paths = {subject: root / subject / f"{subject}_sessions.tsv" for subject in subjects}
    sessions = {
        subject: _keyed(path, "session_id", "ses-", columns) for subject, path in paths.items() if path.is_file()
    }
    participants = _keyed(root / "participants.tsv", "participant_id", "sub-", columns)
    by_session = {name for table in sessions.values() for name in table.header} & set(columns)
    return Tables(participants, sessions, columns, by_session, not_missing)


def shortened(problems: Iterable[str]) -> list[str]:
    """Return the first 20, and how many more there are."""
    listed = list(problems)
    rest = len(listed) - MOST_LISTED
    return listed[:MOST_LISTED] + ([f"… and {rest} more like this"] if rest > 0 else [])


def _keyed(path: Path, key: str, prefix: str, columns: Sequence[str]) -> Keyed:
    try:
        table, unreadable = read_rows(path)
    except ManifestError as error:
        return Keyed({}, [], [], list(map(str, error.problems)))
    header = [name for name in table.columns if name != key]
    if key not in table:
        return Keyed({}, header, [], [f"{path.name}: column {key!r} is missing {suggest(key, table.columns)}"])
    broken = broken_ids(table[key])
    broken |= {index: "is empty" for index in table.index[table[key] == ""]}
    problems = [f"{path.name}: row {row + 2}: {key} {table[key][row]!r} {what}" for row, what in sorted(broken.items())]
    named = (prefix, f"{prefix[:-1]}_", f"{prefix[:-1]} ")  # a prefix that is not quite right is left for `_near`
    names = table[key].drop(index=list(broken))
    names = names.map(lambda name: name if name.casefold().startswith(named) else prefix + name)
    problems += [f"{path.name}: row {row + 2}: {name} is duplicated" for row, name in names[names.duplicated()].items()]
    problems += [f"{path.name}: {text}" for text in _same(names.drop_duplicates())]
    cells = table.loc[names.index, [name for name in columns if name in table]]
    rows = dict(zip(names, cells.to_dict("records"), strict=True))
    return Keyed(rows, header, [f"{path.name}: {problem}" for problem in unreadable], shortened(problems))


def _same(names: pd.Series) -> list[str]:
    """Describe ids that are one id in two spellings."""
    return [
        f"{' and '.join(f'{name!r} (row {row + 2})' for row, name in group.items())} differ only in "
        f"{difference(*group.iloc[:2])}; use one spelling"
        for _, group in names.groupby(names.map(canonical), sort=False)
        if len(group) > 1
    ]


def _near(name: str, known: Iterable[str]) -> str:
    near = spelt_otherwise(name, known)
    return f" (there is {' and '.join(map(repr, near))}; write it the same)" if near else ""
