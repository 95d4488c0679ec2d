"""Splits by site: no site on both sides."""

import pandas as pd
import pytest

from cohort.splits import SplitConfig, make_splits_by, on_both_sides


def cohort(**sizes: tuple[int, int]) -> tuple[pd.DataFrame, pd.Series]:
    """Subjects of two classes at every site, in the sizes given."""
    rows = [
        (f"{site}{label}{i}", label, site)
        for site, counts in sizes.items()
        for label, n in zip("xy", counts, strict=True)
        for i in range(n)
    ]
    subjects = pd.DataFrame(rows, columns=["subject", "label", "site"]).sort_values("subject", ignore_index=True)
    return subjects[["subject", "label"]].assign(split=""), subjects.set_index("subject")["site"]


FOUR = {"A": (20, 10), "B": (8, 6), "C": (5, 5), "D": (4, 3)}


def parts_of(splits: pd.DataFrame, sites: pd.Series) -> list[set[str]]:
    return [set(sites[rows.loc[rows["split"] == "test", "subject"]]) for _, rows in splits.groupby("repeat")]


@pytest.mark.parametrize("repeats", [2, 3, 4, 9])
def test_no_site_is_on_both_sides_and_everybody_is_tested_once(repeats: int) -> None:
    subjects, sites = cohort(**FOUR)
    splits = make_splits_by(subjects, sites, SplitConfig(by="site", repeats=repeats))
    parts = parts_of(splits, sites)
    assert len(parts) == min(repeats, 4)
    assert sum(map(len, parts)) == len(set().union(*parts)) == 4
    assert on_both_sides(splits, sites) == []
    for _, rows in splits.groupby("repeat"):
        assert sorted(rows["subject"]) == sorted(subjects["subject"])
        seen = rows.merge(subjects[["subject", "label"]]).groupby(["split", "label"]).size()
        assert len(seen) == 6  # both classes in each part
        assert seen["train"].sum() / seen["validation"].sum() == pytest.approx(6, rel=0.35)


def test_few_repeats_take_sites_together_of_equal_size() -> None:
    subjects, sites = cohort(**FOUR)
    assert parts_of(make_splits_by(subjects, sites, SplitConfig(by="site", repeats=2)), sites) == [
        {"A"},
        {"B", "C", "D"},
    ]


def test_a_site_of_one_class_is_tested_with_another() -> None:
    subjects, sites = cohort(A=(9, 9), B=(6, 6), C=(5, 0))
    parts = parts_of(make_splits_by(subjects, sites, SplitConfig(by="site", repeats=3)), sites)
    assert parts == [{"A"}, {"B", "C"}]


def test_a_site_on_both_sides_is_found() -> None:
    subjects, sites = cohort(A=(9, 9), B=(6, 6))
    splits = make_splits_by(subjects, sites, SplitConfig(by="site"))
    moved = sites.where(sites.index != "Ax0", "B")
    assert on_both_sides(splits, moved) == ["B"]


@pytest.mark.parametrize(
    ("sizes", "given", "lost", "message"),
    [
        ({"A": (9, 9)}, "", [], r"all subjects have the same \(A\); it takes two"),
        ({"A": (9, 9), "B": (5, 5)}, "", ["Ax0", "By1"], "2 subjects have none: 'Ax0', 'By1'"),
        ({"A": (9, 9), "B": (5, 0)}, "", [], "cannot be put into two parts that both have subjects of x, y"),
        ({"A": (9, 9), "B": (5, 5)}, "train", [], "the manifest gives the split"),
    ],
)
def test_what_cannot_be_split_by_site_is_refused(
    sizes: dict[str, tuple[int, int]], given: str, lost: list[str], message: str
) -> None:
    subjects, site_of = cohort(**sizes)
    with pytest.raises(ValueError, match=message):
        make_splits_by(subjects.assign(split=given), site_of.drop(lost), SplitConfig(by="site"))
