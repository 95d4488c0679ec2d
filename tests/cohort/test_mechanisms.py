"""Who loses a scan: at random, by a covariate, by the class."""

import itertools

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from cohort.mechanisms import MECHANISMS, Missing
from cohort.missingness import hide_scans, positive_of, pulls_of, pulls_of_numbers
from cohort.splits import SplitConfig, shuffled, uniform

NAMES = [f"s{i:03d}" for i in range(200)]
SCANS = pd.DataFrame(itertools.product(NAMES, ("MRI", "PET")), columns=["subject", "modality"])
SCANS = SCANS.assign(observation=SCANS["subject"], scan=SCANS["subject"] + "_" + SCANS["modality"])
SUBJECTS = pd.Series(NAMES, index=NAMES)


def lost(pulls: dict[str, float] | None, share: float = 0.5, seed: int = 0) -> set[str]:
    found = hide_scans(SCANS, {"PET": share}, seed, None if pulls is None else {"PET": pulls}).scans
    return set(found.loc[~found["available"], "subject"])


def test_the_hash_as_a_number_sorts_as_the_hash_does() -> None:
    key = (3, "PET")
    numbers = [uniform(name, *key) for name in NAMES]
    assert sorted(NAMES, key=lambda name: uniform(name, *key)) == shuffled(NAMES, *key)
    assert 0 < min(numbers)
    assert max(numbers) < 1
    assert abs(np.mean(numbers) - 0.5) < 0.08


def test_equal_pulls_hide_whom_no_pulls_hide() -> None:
    assert lost(dict.fromkeys(NAMES, 0.0)) == lost(None)
    assert lost(dict.fromkeys(NAMES, 7.0)) == lost({}) == lost(None)


def test_the_next_is_drawn_in_proportion_to_exp_of_the_pull() -> None:
    """The first of 20, over 200 seeds: one subject is 10 times as likely as each of the others."""
    few = SCANS[SCANS["subject"].isin(NAMES[:20])]
    pulls, first = {"PET": {NAMES[7]: np.log(10)}}, []
    for seed in range(200):
        found = hide_scans(few, {"PET": 1 / 20}, seed, pulls).scans
        first.append(found.loc[~found["available"], "subject"].tolist() == [NAMES[7]])
    expected = 10 / (10 + 19)
    assert abs(np.mean(first) - expected) < 3 * np.sqrt(expected * (1 - expected) / len(first))


def test_the_share_stays_what_was_asked_and_the_pull_says_whose() -> None:
    sick = {name: 2.0 * (i % 2) for i, name in enumerate(NAMES)}
    more, less, strict = (lost({k: v * f for k, v in sick.items()}) for f in (1, -1, 10))
    assert len(more) == len(less) == len(strict) == 100
    assert 60 < sum(sick[name] > 0 for name in more) < 95
    assert 5 < sum(sick[name] > 0 for name in less) < 40
    assert strict == {name for name in NAMES if sick[name]}


def test_a_number_counts_per_standard_deviation_and_a_word_as_yes_or_no() -> None:
    by_age = Missing(share=0.5, mechanism="covariate", of="age", slope=3)
    age = pd.Series([str(60 + i % 30) for i in range(200)], index=NAMES)
    found = pulls_of(by_age, SUBJECTS, age, positive="AD").pulls
    assert np.std(list(found.values())) == pytest.approx(3)
    assert np.mean(list(found.values())) == pytest.approx(0, abs=1e-12)
    assert found["s029"] == max(found.values())
    by_site = Missing(share=0.5, mechanism="covariate", of="site", value="B", slope=3)
    site = pd.Series(np.array(["A", "B", "C", "A"])[np.arange(200) % 4], index=NAMES)
    found = pulls_of(by_site, SUBJECTS, site, positive="AD").pulls
    assert found["s001"] - found["s000"] == pytest.approx(3)
    assert found["s002"] == found["s000"]
    label = pd.Series(np.array(["CN", "AD"])[np.arange(200) % 2], index=NAMES)
    found = pulls_of(Missing(share=0.5, mechanism="class"), SUBJECTS, label, positive="AD").pulls
    assert found["s001"] - found["s000"] == pytest.approx(2)
    other = pulls_of(Missing(share=0.5, mechanism="class", value="CN"), SUBJECTS, label, positive="AD").pulls
    assert other["s001"] - other["s000"] == pytest.approx(-2)


def test_a_subject_of_several_sessions_has_the_mean_and_one_without_a_value_that_of_all() -> None:
    subjects = pd.Series(["a", "a", "b", "c"], index=["a1", "a2", "b", "c"])
    age = pd.Series(["60", "70", "75", ""], index=subjects.index)
    found = pulls_of(Missing(share=0.5, mechanism="covariate", of="age"), subjects, age, positive="AD")
    assert found.pulls == {"a": pytest.approx(-2), "b": pytest.approx(2)}
    assert found.notes == (
        "mechanism covariate of age: unknown of 1 subjects, who are treated like the mean of the others",
    )


@pytest.mark.parametrize(
    ("missing", "cells", "words"),
    [
        (
            Missing(share=0.5, mechanism="covariate", of="site"),
            ["1", "2"],
            "no number, so `value` has to name .*: 1, 2",
        ),
        (Missing(share=0.5, mechanism="covariate", of="age"), ["6", "x"], "no number, so `value` has to name .*: 6, x"),
        (Missing(share=0.5, mechanism="covariate", of="age"), ["6", "6"], "all subjects with the modality are alike"),
        (Missing(share=0.5, mechanism="covariate", of="age"), ["", ""], "nobody with the modality has a value"),
        (Missing(share=0.5, mechanism="covariate", of="sex", value="f"), ["F", "M"], r"value 'f' \(did you mean 'F'"),
        (Missing(share=0.5, mechanism="class", value="ad"), ["AD", "CN"], r"value 'ad' \(did you mean 'AD'"),
    ],
)
def test_what_a_cohort_cannot_say_is_named(missing: Missing, cells: list[str], words: str) -> None:
    index = ["a", "b"]
    with pytest.raises(ValueError, match=words):
        pulls_of(missing, pd.Series(index, index=index), pd.Series(cells, index=index), positive="AD")
    with pytest.raises(ValueError, match="^nobody has the modality$"):
        pulls_of(missing, pd.Series(dtype=object), pd.Series(cells, index=index), positive="AD")
    with pytest.raises(ValueError, match="alike"):
        pulls_of_numbers(pd.Series({"a": 1.0}), 2, "x")


def test_the_class_has_to_be_named_where_there_are_more_than_two() -> None:
    by_class = Missing(share=0.5, mechanism="class")
    assert positive_of(by_class, ("CN", "AD")) == "AD"
    assert positive_of(by_class.model_copy(update={"value": "b"}), ("a", "b", "c")) == "c"  # unused: one is named
    with pytest.raises(ValueError, match="there are 3 classes, so `value` has to name one"):
        positive_of(by_class, ("a", "b", "c"))


def test_a_plain_share_is_written_as_it_was() -> None:
    config = SplitConfig(missing={"PET": 0.5, "MRI": {"share": 0.25, "mechanism": "random"}})
    assert config.model_dump(mode="json")["missing"] == {"PET": 0.5, "MRI": 0.25}
    again = SplitConfig.model_validate(config.model_dump())
    assert again == config
    by_class = SplitConfig(missing={"PET": {"share": 0.5, "mechanism": "class", "slope": 1}})
    assert SplitConfig.model_validate(by_class.model_dump(mode="json")) == by_class
    assert by_class.model_dump(mode="json")["missing"]["PET"]["mechanism"] == "class"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (1.0, "less than 1"),
        (-0.1, "greater than or equal to 0"),
        (float("nan"), "less than 1|greater than or equal to 0"),
        ("half", "valid number"),
        ({"share": 0.5, "mechanism": "sometimes"}, "'random', 'covariate', 'other', 'itself' or 'class'"),
        (
            {"share": 0.5, "mechanism": "itself"},
            r"not known when patients are split; baselines.scenarios: \[mechanisms",
        ),
        ({"share": 0.5, "mechanism": "other", "of": "MRI"}, "not known when patients are split"),
        ({"share": 0.5, "mechanism": "covariate"}, "name a column of cohort.covariates in `of`"),
        ({"share": 0.5, "slope": 1}, "mechanism random has no slope"),
        ({"share": 0.5, "mechanism": "class", "of": "age"}, "mechanism class has no of"),
        ({"share": 0.5, "mechanism": "class", "slope": float("inf")}, "finite number|less than or equal"),
        ({"mechanism": "class"}, "Field required"),
        ({"share": 0.5, "slopes": 1}, "Extra inputs"),
    ],
)
def test_nonsense_is_named(given: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SplitConfig(missing={"PET": given})


def test_mechanisms_are_those_of_the_setting() -> None:
    assert Missing.model_fields["mechanism"].annotation.__args__ == MECHANISMS  # type: ignore[union-attr]
