import math
from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from cohort.splits import (
    SPLITS,
    SplitConfig,
    check_frozen,
    leaked,
    make_splits,
    reconcile,
    shuffled,
    subjects_of,
)

SIZES = [(165, 135), (3, 3), (2, 50), (10, 10, 10), (7, 4, 31, 3), (24, 29), (5,) * 12]
RATIOS = [(6, 1, 3), (8, 1, 1), (1, 1, 1), (0.7, 0.1, 0.2)]


def cohort(*sizes: int, split: str = "") -> pd.DataFrame:
    """Subjects named after their class, in the sizes given."""
    names = [(f"{label}{i:03}", label) for label, size in zip("abcdefghijkl", sizes, strict=False) for i in range(size)]
    return pd.DataFrame(names, columns=["subject", "label"], dtype=str).assign(split=split)


def counts(splits: pd.DataFrame, repeat: int = 1) -> dict[str, list[int]]:
    """Subjects in train, validation and test of each class, the class read from the subject's name."""
    rows = splits[splits["repeat"] == repeat]
    seen = Counter(zip(rows["subject"].str[0], rows["split"], strict=True))
    return {label: [seen[label, split] for split in SPLITS] for label in sorted(set(rows["subject"].str[0]))}


# --- splitting -------------------------------------------------------------------------------------------------------


def test_the_published_split() -> None:
    config = SplitConfig()
    splits = make_splits(cohort(135, 165), config)
    assert counts(splits) == {"a": [81, 14, 40], "b": [99, 16, 50]}  # 180 : 30 : 90 of 300
    assert splits.dtypes.astype(str).to_dict() == {"repeat": "int64", "subject": "str", "split": "str"}


@pytest.mark.parametrize(("sizes", "ratio"), list(product(SIZES, RATIOS)))
def test_every_subject_once_a_repeat_every_class_in_every_split(sizes: tuple[int, ...], ratio: tuple) -> None:
    subjects = cohort(*sizes)
    splits = make_splits(subjects, SplitConfig(ratio=ratio, repeats=2))
    for repeat in (1, 2):
        assert splits.loc[splits["repeat"] == repeat, "subject"].tolist() == sorted(subjects["subject"])
        for label, size in zip("abcdefghijkl", sizes, strict=False):
            train, validation, test = counts(splits, repeat)[label]
            assert train >= 1
            assert test >= 1
            assert validation >= (size >= 3)


@pytest.mark.parametrize("seed", range(20))
def test_each_class_is_rounded_to_a_neighbour_and_the_total_to_within_one(seed: int) -> None:
    sizes = np.random.default_rng(seed).integers(10, 80, size=2 + seed % 6)  # 10 of a class: every quota is at least 1
    table = np.array(list(counts(make_splits(cohort(*sizes), SplitConfig(repeats=1))).values()))
    quota = np.outer(sizes, [0.6, 0.1, 0.3])
    assert (table >= np.floor(quota.round(9))).all()
    assert (table <= np.ceil(quota.round(9))).all()
    assert np.abs(table.sum(axis=0) - quota.sum(axis=0)).max() < 1


@pytest.mark.parametrize("size", range(10, 60))
def test_a_class_alone_gets_the_largest_remainders(size: int) -> None:
    quota = [size * 6 / 10, size / 10, size * 3 / 10]
    expected = [math.floor(round(share, 9)) for share in quota]
    by_remainder = sorted(range(3), key=lambda split: round(expected[split] - quota[split], 9))
    for split in by_remainder[: size - sum(expected)]:
        expected[split] += 1
    assert counts(make_splits(cohort(size), SplitConfig(repeats=1)))["a"] == expected


def test_the_order_of_rows_does_not_matter_the_seed_and_the_repeat_do() -> None:
    subjects, config = cohort(20, 30), SplitConfig()
    splits = make_splits(subjects, config)
    pd.testing.assert_frame_equal(make_splits(subjects.sample(frac=1, random_state=1), config), splits)
    tests = [
        tuple(table.query("repeat == @repeat and split == 'test'")["subject"])
        for table in (splits, make_splits(subjects, SplitConfig(seed=1)))
        for repeat in (1, 2, 3)
    ]
    assert len(set(tests)) == 6


def test_every_subject_is_as_likely_as_its_class_to_be_tested_on() -> None:
    splits = make_splits(cohort(20, 30), SplitConfig(repeats=400))
    share = (splits["split"] == "test").groupby(splits["subject"]).mean()
    assert share.between(0.3 - 5 * math.sqrt(0.21 / 400), 0.3 + 5 * math.sqrt(0.21 / 400)).all()


def test_names_of_any_alphabet_are_split() -> None:
    names = ["José", "病人 1", "a b", "é", "è", "Ω"]
    subjects = pd.DataFrame({"subject": names, "label": list("ababab"), "split": ""})
    assert set(make_splits(subjects, SplitConfig())["subject"]) == set(names)


def test_a_split_the_manifest_gives_is_used_in_every_repeat() -> None:
    subjects = cohort(4, 4)
    subjects["split"] = ["train", "train", "validation", "test"] * 2
    splits = make_splits(subjects, SplitConfig(repeats=3))
    for repeat in (1, 2, 3):
        rows = splits[splits["repeat"] == repeat].set_index("subject")["split"]
        assert rows.to_dict() == dict(zip(subjects["subject"], subjects["split"], strict=True))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            ["train", "validation", "test", "", "train", "train"],
            r"given for 5 subjects, not for 'b000'; give it for all",
        ),
        (["train", "", "", "", "", "train"], "not for 'a001', 'a002', 'b000' and 1 more"),
        (["train", "train", "test", "train", "train", "test"], "puts no subject in validation"),
        (["train", "train", "train", "validation", "test", "test"], "puts no subject of class 'b' in train"),
    ],
)
def test_a_split_that_cannot_be_used(split: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_splits(cohort(3, 3).assign(split=split), SplitConfig())


def test_a_class_of_one_and_a_subject_twice_are_refused() -> None:
    with pytest.raises(ValueError, match="class 'b' has one subject"):
        make_splits(cohort(5, 1), SplitConfig())
    with pytest.raises(ValueError, match="subject 'a000' has two rows"):
        make_splits(pd.concat([cohort(3, 3), cohort(1)]), SplitConfig())


@pytest.mark.parametrize(
    ("values", "key"),
    [({"ratio": (6, 0, 3)}, "ratio"), ({"ratio": (1, 1, float("inf"))}, "ratio"), ({"repeats": 0}, "repeats"),
     ({"seed": -1}, "seed"), ({"new_subjects": "drop"}, "new_subjects"), ({"ratios": (6, 1, 3)}, "ratios")],
)  # fmt: skip
def test_nonsense_is_refused_by_name(values: dict, key: str) -> None:
    with pytest.raises(ValidationError, match=key):
        SplitConfig(**values)


# --- subjects --------------------------------------------------------------------------------------------------------


def test_a_subject_counts_by_its_last_session() -> None:
    text = "b ses-10 AD, b ses-2 MCI, a  CN, c 2021-03 AD, c 2019-11 CN, d  CN, d m06 MCI"
    rows = [row.split(" ") for row in text.split(", ")]
    seen = pd.DataFrame(rows, columns=["subject", "session", "label"]).assign(split="")
    expected = {"a": "CN", "b": "AD", "c": "AD", "d": "MCI"}
    for table in (seen, seen[::-1]):
        subjects = subjects_of(table)
        assert list(subjects.columns) == ["subject", "label", "split"]
        assert dict(zip(subjects["subject"], subjects["label"], strict=True)) == expected


# --- frozen splits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["leave_out", "train", "test", "split"])
def test_frozen_rows_never_change(policy: str) -> None:
    frozen = make_splits(cohort(20, 30), SplitConfig())
    today = cohort(24, 33)[2:]
    result = reconcile(frozen, today, SplitConfig(new_subjects=policy, seed=9, ratio=(1, 1, 1), repeats=7))
    pd.testing.assert_frame_equal(result.splits[: len(frozen)], frozen)
    assert result.new == ("a020", "a021", "a022", "a023", "b030", "b031", "b032")
    assert result.missing == ("a000", "a001")
    assert result.moved == ()
    added = result.splits[len(frozen) :]
    assert len(added) == (0 if policy == "leave_out" else 3 * 7)
    if policy in ("train", "test"):
        assert set(added["split"]) == {policy}
    check_frozen(result.splits)


def test_nothing_new_changes_nothing() -> None:
    frozen = make_splits(cohort(20, 30), SplitConfig())
    again = reconcile(frozen, cohort(20, 30), SplitConfig(new_subjects="split"))
    pd.testing.assert_frame_equal(again.splits, frozen)
    assert again[1:] == ((), (), ())


def test_new_subjects_are_split_so_that_the_ratio_is_kept() -> None:
    config = SplitConfig(new_subjects="split")
    frozen = make_splits(cohort(20, 30), config)
    result = reconcile(frozen, cohort(60, 50), config)
    assert counts(result.splits) == {"a": [36, 6, 18], "b": [30, 5, 15]}
    assigned = [tuple(result.splits.query("repeat == @r")["split"][-60:]) for r in (1, 2, 3)]
    assert len(set(assigned)) == 3
    one_by_one = frozen
    for size in range(21, 61):
        one_by_one = reconcile(one_by_one, cohort(size, 30), config).splits
    assert np.abs(np.array(counts(one_by_one)["a"]) - [36, 6, 18]).max() <= 1


def test_a_new_class_is_split_too() -> None:
    frozen = make_splits(cohort(20, 30), SplitConfig())
    result = reconcile(frozen, cohort(20, 30, 10), SplitConfig(new_subjects="split"))
    assert counts(result.splits)["c"] == [6, 1, 3]


def test_a_split_of_the_manifest_holds_for_new_subjects_and_is_noted_for_old_ones() -> None:
    given = cohort(4, 4).assign(split=["train", "train", "validation", "test"] * 2)
    frozen = make_splits(given, SplitConfig())
    today = pd.concat([given, pd.DataFrame({"subject": ["new"], "label": ["a"], "split": ["test"]})], ignore_index=True)
    today.loc[0, "split"] = "test"
    result = reconcile(frozen, today, SplitConfig(new_subjects="split"))
    assert result.moved == ("a000",)
    assert result.splits.query("subject == 'a000'")["split"].unique().tolist() == ["train"]
    assert result.splits.query("subject == 'new'")["split"].tolist() == ["test"] * 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table.drop(columns=["split", "repeat"]), "no column repeat or split"),
        (lambda table: table[:0], "no rows"),
        (lambda table: table.assign(repeat=table["repeat"] - 1), "repeat is not a whole number counted from 1"),
        (lambda table: table.assign(repeat=table["repeat"].astype(str)), "repeat is not a whole number"),
        (lambda table: table.assign(subject=7), "read the column as text"),
        (lambda table: table.assign(split="Train"), "split 'Train' is none of train, validation, test"),
        (lambda table: pd.concat([table, table[:1]]), "subject 'a000' is twice in repeat 1"),
        (lambda table: table[:-1], "repeat 3 lacks 'b003'"),
        (lambda table: table[table["repeat"] != 2], "repeat 2 lacks 'a000', 'a001', 'a002' and 4 more"),
        (lambda table: pd.concat([table[1:], table[1:2]]), "'a001' is twice in repeat 1; repeat 1 lacks 'a000'"),
    ],
)
def test_damaged_tables_are_found(damage: Callable[[pd.DataFrame], pd.DataFrame], message: str) -> None:
    frozen = make_splits(cohort(3, 4), SplitConfig())
    check_frozen(frozen)
    with pytest.raises(ValueError, match=f"frozen splits are damaged: .*{message}"):
        check_frozen(damage(frozen))
    with pytest.raises(ValueError, match="frozen splits are damaged"):
        reconcile(damage(frozen), cohort(3, 4), SplitConfig())


def test_leaked_names_the_test_subjects_that_were_seen() -> None:
    splits = make_splits(cohort(10, 10), SplitConfig())
    held_out = splits.query("repeat == 2 and split == 'test'")["subject"].tolist()
    others = splits.query("repeat == 2 and split != 'test'")["subject"].tolist()
    assert leaked(others, splits, 2) == ()
    assert leaked([*others, held_out[1], held_out[0], "stranger"], splits, 2) == tuple(sorted(held_out[:2]))
    with pytest.raises(ValueError, match=r"no repeat 4 in the splits, only \[1, 2, 3\]"):
        leaked(others, splits, 4)


# --- the shuffle -----------------------------------------------------------------------------------------------------


def test_shuffled_is_a_property_of_the_names() -> None:
    names = [f"s{i}" for i in range(50)]
    order = shuffled(names, 0, "MRI")
    assert order != names
    assert sorted(order) == sorted(names)
    assert shuffled(reversed(names), 0, "MRI") == order
    assert [name for name in shuffled([*names, "ü"], 0, "MRI") if name != "ü"] == order
    assert shuffled(names, 1, "MRI") != order
    assert shuffled(["a", "b", "c"], 0) == ["c", "a", "b"]  # as `printf '0\0a' | sha256sum` and so on sort


@pytest.mark.parametrize("spelling", ["A000", "a00", "a-000", "a000.0"])
def test_a_subject_of_the_frozen_splits_in_another_spelling_is_nobody_new(spelling: str) -> None:
    frozen = make_splits(cohort(20, 30), SplitConfig())
    today = cohort(20, 30).replace({"subject": {"a000": spelling}})
    with pytest.raises(ValueError, match=f"have 1 subjects in another spelling: '{spelling}' is 'a000'; write them in"):
        reconcile(frozen, today, SplitConfig(new_subjects="train"))
