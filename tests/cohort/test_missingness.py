import itertools
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pandas as pd
import pytest

from cohort.missingness import hide_scans


def scans_of(*scans: tuple[str, ...]) -> pd.DataFrame:
    """A table of scans from (subject, modality) or (subject, session, modality)."""
    rows = [(each[0], "_".join(each[:-1]), each[-1]) for each in scans]
    table = pd.DataFrame(rows, columns=["subject", "observation", "modality"])
    return table.assign(scan=[f"{i}_{o}_{m}" for i, (_, o, m) in enumerate(rows)])


def complete(subjects: int, modalities: str = "AB") -> pd.DataFrame:
    return scans_of(*itertools.product([f"s{i}" for i in range(subjects)], modalities))


def ragged(seed: int) -> pd.DataFrame:
    """Up to three sessions a subject, up to three modalities a session, up to two scans of each."""
    rng = np.random.default_rng(seed)
    scans = [
        (f"påtient {i}", f"m{j}", modality)
        for i in range(25)
        for j in range(rng.integers(1, 4))
        for modality in rng.choice(list("ABC"), size=rng.integers(1, 4), replace=False)
        for _ in range(rng.integers(1, 3))
    ]
    return scans_of(*scans)


def hidden_subjects(table: pd.DataFrame, modality: str) -> set[str]:
    return set(table.loc[(table["modality"] == modality) & ~table["available"], "subject"])


def test_nothing_asked_nothing_hidden() -> None:
    scans = complete(4)
    table, notes = hide_scans(scans, {}, seed=0)
    assert list(table.columns) == ["scan", "observation", "subject", "modality", "available"]
    assert table["available"].dtype == bool
    assert table["available"].all()
    assert notes == ()
    pd.testing.assert_frame_equal(table.drop(columns="available"), scans[table.columns[:-1]])


@pytest.mark.parametrize("subjects", [1, 7, 10, 50])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.15, 0.29, 0.5, 0.99])
def test_the_share_is_rounded_half_up(subjects: int, share: float) -> None:
    table, notes = hide_scans(complete(subjects), {"A": share}, seed=3)
    expected = (Decimal(str(share)) * subjects).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    assert len(hidden_subjects(table, "A")) == expected
    assert not hidden_subjects(table, "B")
    assert notes == ()


def test_the_share_is_of_the_subjects_who_have_the_modality() -> None:
    scans = pd.concat([complete(10), scans_of(*((f"t{i}", "B") for i in range(90)))], ignore_index=True)
    table, _ = hide_scans(scans, {"A": 0.5}, seed=0)
    assert len(hidden_subjects(table, "A")) == 5


@pytest.mark.parametrize("seed", range(30))
def test_what_holds_of_any_cohort(seed: int) -> None:
    scans = ragged(seed)
    missing = {"C": 0.4, "A": 0.6, "B": 0.5}
    table, notes = hide_scans(scans, missing, seed=seed)
    assert table["scan"].tolist() == scans["scan"].tolist()
    assert table.groupby("observation")["available"].any().all()
    assert (table.groupby(["subject", "modality"])["available"].nunique() == 1).all()
    for modality, share in missing.items():
        subjects = set(scans.loc[scans["modality"] == modality, "subject"])
        asked, hidden = int(share * len(subjects) + 0.5), len(hidden_subjects(table, modality))
        assert hidden == asked or any(note.startswith(f"{modality}: {asked} of {len(subjects)} ") for note in notes)
    # Where fewer were hidden than asked, not one more could have been hidden in the end.
    for note in notes:
        modality = note[0]
        for subject in set(table.loc[table["modality"] == modality, "subject"]) - hidden_subjects(table, modality):
            trial = table.assign(
                available=table["available"] & ~((table["subject"] == subject) & (table["modality"] == modality))
            )
            assert not trial.groupby("observation")["available"].any().all()


def test_the_order_of_rows_and_of_the_request_does_not_matter() -> None:
    scans = ragged(0)
    table, notes = hide_scans(scans, {"A": 0.5, "B": 0.3}, seed=1)
    turned, turned_notes = hide_scans(scans.sample(frac=1, random_state=2), {"B": 0.3, "A": 0.5}, seed=1)
    by_scan = [each.set_index("scan")["available"].sort_index() for each in (table, turned)]
    pd.testing.assert_series_equal(*by_scan)
    assert notes == turned_notes


def test_a_subject_who_joins_moves_at_most_one_other() -> None:
    before = hidden_subjects(hide_scans(complete(40), {"A": 0.5}, seed=0).scans, "A")
    for size in (41, 42):
        after = hidden_subjects(hide_scans(complete(size), {"A": 0.5}, seed=0).scans, "A")
        assert len(before - after) <= 1
        before = after


def test_seed_and_modality_choose_others() -> None:
    scans = complete(30, "ABC")
    chosen = [frozenset(hidden_subjects(hide_scans(scans, {m: 0.5}, seed=s).scans, m)) for m in "AB" for s in (0, 1)]
    assert len(set(chosen)) == 4


def test_two_modalities_share_the_cohort_between_them() -> None:
    table, notes = hide_scans(complete(10), {"A": 0.5, "B": 0.5}, seed=0)
    assert notes == ()
    assert hidden_subjects(table, "A").isdisjoint(hidden_subjects(table, "B"))
    table, notes = hide_scans(complete(10), {"A": 0.7, "B": 0.5}, seed=0)
    assert len(hidden_subjects(table, "A")) == 6
    assert len(hidden_subjects(table, "B")) == 4
    assert notes == (
        "A: 7 of 10 subjects were to be hidden and 6 could be; each of the others would have been left without a scan",
        "B: 5 of 10 subjects were to be hidden and 4 could be; each of the others would have been left without a scan",
    )


@pytest.mark.parametrize("names", ["ABC", "CAB"])
def test_no_name_has_an_advantage_where_shares_compete(names: str) -> None:
    first, second, third = names
    table, _ = hide_scans(complete(30, names), {first: 0.9, second: 0.9, third: 0.45}, seed=1)
    hidden = [len(hidden_subjects(table, name)) for name in names]
    assert sum(hidden) == 60
    assert hidden == pytest.approx([24, 24, 12], abs=2.5)


def test_a_session_with_one_modality_keeps_it() -> None:
    scans = scans_of(("a", "1", "A"), ("a", "2", "A"), ("a", "2", "B"), ("b", "1", "A"), ("b", "1", "B"))
    table, notes = hide_scans(scans, {"A": 0.9}, seed=0)
    assert hidden_subjects(table, "A") == {"b"}
    assert len(notes) == 1


def test_subjects_of_one_scan_keep_it() -> None:
    table, notes = hide_scans(scans_of(("a", "A"), ("b", "A"), ("c", "B")), {"A": 0.5}, seed=0)
    assert table["available"].all()
    assert "1 of 2 subjects were to be hidden and 0 could be" in notes[0]


@pytest.mark.parametrize("share", [1, 1.5, -0.1, float("nan")])
def test_a_share_out_of_range_is_named(share: float) -> None:
    with pytest.raises(ValueError, match=f"missing: A: {share} is not a share"):
        hide_scans(complete(3), {"A": share}, seed=0)


def test_an_unknown_modality_is_named_with_its_neighbour() -> None:
    scans = scans_of(("a", "MRI"), ("a", "PET"))
    with pytest.raises(ValueError, match=r"no scan is of modality 'pet' \(did you mean 'PET'\?\)"):
        hide_scans(scans, {"pet": 0.5}, seed=0)
