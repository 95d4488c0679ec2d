"""Which scans a scenario leaves, what it is called, and that feature maps are joined to people by name."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evaluation.published import AS_IT_IS, COMPLETE, HALF_MRI, HALF_PET, published_rows
from pipeline.comparison.scenarios import Scenario, build_sample, scans_in, scenarios_of
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData

CPU = torch.device("cpu")
SPLITS = ("train", "train", "train", "validation", "test", "test")  # of the subjects, in turn
MRI_AND_PET = ("MRI", "PET")


@pytest.fixture
def data_of() -> Callable[..., RepeatData]:
    """Makes usable scans: one observation a subject, one scan of every modality, but for those in `absent`."""

    def make(
        subjects: int = 60, modalities: tuple[str, ...] = MRI_AND_PET, absent: Sequence[str] = (), seed: int = 0
    ) -> RepeatData:
        rows = [
            {"scan": f"p{n:02d}_{m}", "observation": f"p{n:02d}", "subject": f"p{n:02d}", "session": "", "modality": m}
            | {"label": ("well", "sick")[n % 2], "split": SPLITS[n % len(SPLITS)]}
            for n in range(subjects)
            for m in modalities
            if f"p{n:02d}_{m}" not in absent
        ]
        frame = pd.DataFrame(rows).sample(frac=1, random_state=seed)
        return RepeatData(frame.reset_index(drop=True), modalities, ("well", "sick"))

    return make


def shuffled(data: RepeatData, seed: int) -> RepeatData:
    """The same scans in another order, under other row numbers."""
    frame = data.scans.sample(frac=1, random_state=seed).reset_index(drop=True)
    return RepeatData(frame, data.modalities, data.classes)


def test_two_modalities_are_called_as_in_the_paper() -> None:
    found = scenarios_of(("as_it_is", "missing", "complete"), (0.5,), MRI_AND_PET)
    assert [s.name for s in found] == [COMPLETE, HALF_PET, HALF_MRI, AS_IT_IS]
    assert [s.name for s in found[:3]] == list(published_rows("ADNI")["scenario"].unique())
    assert [s.hidden for s in found] == [(), (("PET", 0.5),), (("MRI", 0.5),), ()]
    assert [s.complete_only for s in found] == [True, True, True, False]


@pytest.mark.parametrize(("rate", "left"), [(0.3, "70"), (0.9, "10"), (0.125, "87.5")])
def test_the_name_says_what_is_left(rate: float, left: str) -> None:
    found = scenarios_of(("missing",), (rate,), MRI_AND_PET)
    assert [s.name for s in found] == [f"100% MRI + {left}% PET", f"100% PET + {left}% MRI"]


def test_every_modality_is_hidden_in_turn_at_every_rate() -> None:
    modalities = ("100X", "200X", "400X", "40X")
    found = scenarios_of(("complete", "missing"), (0.5, 0.8), modalities)
    assert found[0] == Scenario("complete")
    assert {s.hidden for s in found[1:]} == {((m, rate),) for m in modalities for rate in (0.5, 0.8)}
    assert len({s.name for s in found}) == len(found) == 9
    assert next(s.name for s in found if s.hidden == (("40X", 0.8),)) == "40X of 20%, the others of all"


def test_only_what_was_asked_for() -> None:
    assert [s.name for s in scenarios_of(("as_it_is",), (0.5,), MRI_AND_PET)] == [AS_IT_IS]
    assert scenarios_of(("missing",), (), MRI_AND_PET) == []


def test_fewer_training_patients_of_each_class_and_the_same_test(data_of: Callable[..., RepeatData]) -> None:
    data = data_of(63)
    full, half, tenth = scenarios_of(("as_it_is", "fewer_patients"), (), MRI_AND_PET, (0.1, 0.5))
    assert [s.patients for s in (full, half, tenth)] == [1.0, 0.5, 0.1]
    assert half.name == "as it is, 50% of the training patients"
    left = [scans_in(scenario, data, 7)[0] for scenario in (full, half, tenth)]
    kept = [scans[scans["split"] == "train"].groupby("label")["subject"].agg(set) for scans in left]
    for label, everybody in kept[0].items():
        assert [len(each[label]) for each in kept[1:]] == [math.ceil(share * len(everybody)) for share in (0.5, 0.1)]
        assert kept[2][label] < kept[1][label] < everybody
    for scans in left[1:]:
        assert set(scans.loc[scans["split"] != "train", "scan"]) == set(
            data.scans.loc[data.scans["split"] != "train", "scan"]
        )
    others = scans_in(half, data, 8)[0]
    assert set(others["subject"]) != set(left[1]["subject"]), "another seed keeps other patients"
    assert set(scans_in(half, shuffled(data, 3), 7)[0]["scan"]) == set(left[1]["scan"])


def test_complete_keeps_exactly_the_observations_with_every_modality(data_of: Callable[..., RepeatData]) -> None:
    absent = ("p03_a", "p10_b", "p11_c", "p12_a", "p12_b", "p13_a", "p13_b", "p13_c")
    data = data_of(20, ("a", "b", "c"), absent)
    left, notes = scans_in(Scenario("complete"), data, 0)
    expected = {f"p{n:02d}" for n in range(20)} - {scan[:3] for scan in absent}
    assert set(left["observation"]) == expected
    assert set(left["scan"]) == {f"{name}_{m}" for name in expected for m in ("a", "b", "c")}
    assert [note.split(";")[0] for note in notes] == ["only 15 of 19 patients have a, b, c together"]
    everything, _ = scans_in(Scenario(AS_IT_IS, complete_only=False), data, 0)
    pd.testing.assert_frame_equal(everything, data.scans)


def test_a_second_session_is_complete_or_not_by_itself(data_of: Callable[..., RepeatData]) -> None:
    data = data_of(6)
    later = data.scans[data.scans["scan"] == "p01_MRI"].assign(scan="p01_later_MRI", observation="p01_later")
    twice = RepeatData(pd.concat([data.scans, later], ignore_index=True), data.modalities, data.classes)
    left, _ = scans_in(Scenario("complete"), twice, 0)
    assert set(left["observation"]) == set(data.scans["observation"])


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.55, 0.9])
@pytest.mark.parametrize("modality", MRI_AND_PET)
def test_exactly_the_asked_share_is_hidden_in_training_and_test(
    data_of: Callable[..., RepeatData], modality: str, rate: float
) -> None:
    absent = ("p00_PET", "p07_MRI", "p21_PET")
    data = data_of(60, absent=absent)
    scenario = next(s for s in scenarios_of(("missing",), (rate,), MRI_AND_PET) if s.hidden == ((modality, rate),))
    left, notes = scans_in(scenario, data, 0)
    assert notes == []
    complete = data.scans[~data.scans["observation"].isin({scan[:3] for scan in absent})]
    hidden = complete[~complete["scan"].isin(left["scan"])]
    assert set(left["scan"]) < set(complete["scan"])
    assert set(hidden["modality"]) == {modality}
    assert len(hidden) == np.floor(rate * 57 + 0.5)
    assert set(left["observation"]) == set(complete["observation"])  # nobody loses the last scan
    assert set(hidden["split"]) == {"train", "validation", "test"}


def test_the_last_scan_is_never_hidden(data_of: Callable[..., RepeatData]) -> None:
    """Most have a PET alone, so that nine in ten cannot lose it; said, not done."""
    data = data_of(30, absent=[f"p{n:02d}_MRI" for n in range(20)])
    left, notes = scans_in(Scenario("mine", (("PET", 0.9),), complete_only=False), data, 0)
    assert set(left["observation"]) == set(data.scans["observation"])
    assert set(data.scans["scan"]) - set(left["scan"]) == {f"p{n}_PET" for n in range(20, 30)}
    assert "27 of 30 subjects were to be hidden and 10 could be" in notes[0]


def test_a_subject_loses_all_scans_of_the_modality(data_of: Callable[..., RepeatData]) -> None:
    data = data_of(12)
    again = data.scans[data.scans["modality"] == "PET"]
    again = again.assign(scan=again["scan"] + "_2")
    twice = RepeatData(pd.concat([data.scans, again], ignore_index=True), data.modalities, data.classes)
    left, _ = scans_in(Scenario(HALF_PET, (("PET", 0.5),)), twice, 0)
    assert sorted(left[left["modality"] == "PET"].groupby("observation").size()) == [2] * 6
    assert (left["modality"] == "MRI").sum() == 12


def test_the_order_of_the_rows_hides_nobody_else_and_another_seed_does(data_of: Callable[..., RepeatData]) -> None:
    scenario = Scenario(HALF_PET, (("PET", 0.5),))
    data = data_of(40)
    hidden = []
    for order, seed in ((0, 0), (1, 0), (2, 0), (0, 1)):
        left, _ = scans_in(scenario, shuffled(data, order), seed)
        hidden.append(set(data.scans["scan"]) - set(left["scan"]))
    assert hidden[0] == hidden[1] == hidden[2] != hidden[3]


def test_few_complete_patients_are_worth_a_note(data_of: Callable[..., RepeatData]) -> None:
    assert scans_in(Scenario("complete"), data_of(40, absent=[f"p{n:02d}_PET" for n in range(20)]), 0)[1] == []
    _, notes = scans_in(Scenario("complete"), data_of(40, absent=[f"p{n:02d}_PET" for n in range(21)]), 0)
    assert notes == [
        "only 19 of 40 patients have MRI, PET together; the others are left out of this scenario. "
        "The scenario as_it_is uses all of them"
    ]
    assert scans_in(Scenario(AS_IT_IS, complete_only=False), data_of(9, absent=["p01_PET"]), 0)[1] == []


def test_the_split_does_not_decide_whose_scan_is_hidden(data_of: Callable[..., RepeatData]) -> None:
    data = data_of(40)
    other = RepeatData(data.scans.assign(split=np.roll(data.scans["split"], 7)), data.modalities, data.classes)
    scenario = Scenario(HALF_MRI, (("MRI", 0.5),))
    assert list(scans_in(scenario, data, 0)[0]["scan"]) == list(scans_in(scenario, other, 0)[0]["scan"])


@pytest.fixture
def feature_maps(tmp_path: Path, data_of: Callable[..., RepeatData]) -> FeatureStore:
    """A feature map of every scan of 24 subjects that tells whose it is and what it is."""
    found = FeatureStore(tmp_path / "features")
    for scan in data_of(24).scans["scan"]:
        found.save(scan, torch.full((2, 1, 1), value_of(scan)))
        found.finish(scan, "key", {})
    return found


def value_of(scan: str) -> float:
    """10 times the subject's number, and 1 more for a PET."""
    return 10.0 * int(scan[1:3]) + scan.endswith("PET")


@pytest.mark.parametrize("order", [0, 1, 2])
def test_feature_maps_are_joined_by_name_when_scans_are_hidden(
    data_of: Callable[..., RepeatData], feature_maps: FeatureStore, order: int
) -> None:
    data = shuffled(data_of(24), order)
    left, _ = scans_in(Scenario(HALF_PET, (("PET", 0.5),)), data, 0)
    scenario_sample = build_sample(left.sample(frac=1, random_state=order), data, feature_maps, CPU)
    sample = scenario_sample.sample
    values = sample.feature_maps[:, 0, 0, 0].tolist()
    assert values == [value_of(scan) for scan in scenario_sample.scans["scan"]]
    assert sorted(values) == sorted(value_of(scan) for scan in left["scan"])  # what is hidden is not there
    assert len(values) == 24 + 12
    for value, observation, modality in zip(values, sample.observation.tolist(), sample.modality.tolist(), strict=True):
        assert scenario_sample.observations[observation] == f"p{int(value) // 10:02d}"
        assert MRI_AND_PET[modality] == ("PET" if value % 10 else "MRI")
    for number, name in enumerate(scenario_sample.observations):
        assert scenario_sample.subjects[number] == name
        assert sample.target[number] == int(name[1:]) % 2
        assert number in scenario_sample.observed(SPLITS[int(name[1:]) % len(SPLITS)]).tolist()
    assert sorted(torch.cat([scenario_sample.observed(p) for p in ("train", "validation", "test")]).tolist()) == list(
        range(24)
    )
    assert (sample.modalities, sample.classes) == (2, 2)


def test_the_same_sample_whatever_the_order_of_the_rows(
    data_of: Callable[..., RepeatData], feature_maps: FeatureStore
) -> None:
    data = data_of(24)
    one, other = (build_sample(shuffled(data, seed).scans, data, feature_maps, CPU) for seed in (3, 4))
    for name in ("feature_maps", "modality", "observation", "target", "train", "validation", "test"):
        assert torch.equal(getattr(one.sample, name), getattr(other.sample, name)), name
    assert one.observations == other.observations
    pd.testing.assert_frame_equal(one.scans, other.scans)


def test_several_scans_of_a_modality_stay_with_their_observation(
    data_of: Callable[..., RepeatData], feature_maps: FeatureStore
) -> None:
    data = data_of(4)
    data.scans["session"] = "ses-2"
    later = data.scans[data.scans["subject"] == "p02"].assign(observation="p02_later", scan=["p02_x", "p02_y"])
    later = later.assign(modality="MRI", session="ses-10")
    for scan, value in (("p02_x", 100.0), ("p02_y", 200.0)):
        feature_maps.save(scan, torch.full((2, 1, 1), value))
        feature_maps.finish(scan, "key", {})
    scenario_sample = build_sample(pd.concat([later, data.scans]), data, feature_maps, CPU)
    index = scenario_sample.observations.index("p02_later")
    assert scenario_sample.subjects[index] == "p02"
    subject = scenario_sample.sample.subject
    assert subject is not None
    assert subject[index] == subject[scenario_sample.observations.index("p02")]  # inner folds are by subject
    assert len(subject.unique()) == 4
    session = scenario_sample.sample.session
    assert session is not None
    assert session[index] > session[scenario_sample.observations.index("p02")]  # the joint model takes the latest
    assert scenario_sample.sample.modality_mask[index].tolist() == [True, False]
    assert scenario_sample.sample.grid()[index, 0].unique().tolist() == [150.0]
    assert scenario_sample.sample.grid()[scenario_sample.observations.index("p02"), 0].unique().tolist() == [20.0]
