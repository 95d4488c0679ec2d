"""Feature maps of images and tables together: in order, on either way, and coded by training members alone."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from console.errors import InputError
from pipeline.store.base import write_record
from pipeline.store.features import FeatureStore
from pipeline.training.feature_maps import encoding_notes, feature_maps_of, table_encoders
from pipeline.training.repeat_data import RepeatData

SHAPE = (6, 2, 3)
CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    for number in range(8):
        store.save(f"s{number}_MRI", torch.full(SHAPE, float(number)))
        store.finish(f"s{number}_MRI", "key", {"shape": list(SHAPE)})
    write_record(store.folder / "manifest.json", {"scans": {f"s{number}_MRI": "k" for number in range(8)}})
    return store


def data(*, test_value: float = 100.0, category: str = "L") -> RepeatData:
    """Eight subjects, the first four to train; a table of a number and a category."""
    rows = []
    for number in range(8):
        row = {"subject": f"s{number}", "observation": f"s{number}", "label": "ab"[number % 2]}
        row |= {"split": "train" if number < 4 else "test"}
        rows.append(row | {"scan": f"s{number}_MRI", "modality": "MRI", "values": ""})
        values = {"x": float(number) if number < 4 else test_value, "c": "KL"[number % 2] if number < 4 else category}
        rows.append(row | {"scan": f"s{number}_scores", "modality": "scores", "values": json.dumps(values)})
    return RepeatData(pd.DataFrame(rows), ("MRI", "scores"), ("a", "b"))


def test_images_and_tables_come_in_the_order_asked_for(store: FeatureStore) -> None:
    maps = feature_maps_of(data(), store)
    first, table, second = maps.load(["s3_MRI", "s1_scores", "s1_MRI"])
    assert (first == 3).all()
    assert (second == 1).all()
    assert (table == table[:, :1, :1]).all()  # the same at every position
    np.testing.assert_array_equal(table[:, 0, 0], maps.codes["s1_scores"])
    assert maps.load(["s2_MRI"]).shape == (1, *SHAPE)
    assert maps.load(["s2_scores"]).shape == (1, *SHAPE)


@pytest.mark.parametrize("memory_mb", [0, 10])
def test_a_view_reads_what_is_loaded(store: FeatureStore, tmp_path: Path, memory_mb: int) -> None:
    maps, names = feature_maps_of(data(), store), data().scans["scan"].to_list()
    with store.rows(device=CPU, memory_mb=memory_mb, folder=tmp_path) as buffer:
        view = maps.of(buffer, names)
        assert view.shape == SHAPE
        for items in ([0, 1], [7, 2, 2, 15], [1], [4]):
            torch.testing.assert_close(view[torch.tensor(items)], maps.load([names[i] for i in items]))
        images = maps.of(buffer, ["s5_MRI", "s0_MRI"])
        assert images[torch.tensor([1, 0])][:, 0, 0, 0].tolist() == [0, 5]


def test_a_view_of_tables_alone(tmp_path: Path) -> None:
    empty = FeatureStore(tmp_path / "features")
    write_record(empty.folder / "manifest.json", {"scans": {}, "feature_map_shape": list(SHAPE)})
    tables = data().scans.query("modality == 'scores'").reset_index(drop=True)
    maps = feature_maps_of(dataclasses.replace(data(), scans=tables), empty)
    with empty.rows(device=CPU, memory_mb=1, folder=tmp_path) as buffer:
        view = maps.of(buffer, tables["scan"])
        torch.testing.assert_close(view[torch.tensor([3, 1])], maps.load(["s3_scores", "s1_scores"]))


def test_values_of_test_patients_change_no_code_but_their_own(store: FeatureStore) -> None:
    training = [f"s{number}_scores" for number in range(4)]
    before, after = (feature_maps_of(each, store) for each in (data(), data(test_value=-3.0, category="new")))
    torch.testing.assert_close(before.load(training), after.load(training))
    assert not torch.allclose(before.load(["s5_scores"]), after.load(["s5_scores"]))
    assert table_encoders(data())["scores"].columns[0].centre == (1.5,)


def test_a_new_category_is_noted_and_counted(store: FeatureStore) -> None:
    assert encoding_notes(data()) == []
    assert encoding_notes(data(category="new")) == [
        "scores: c 'new' is not in training, and counts as missing (times: 4)"
    ]


def test_without_tables_nothing_is_coded(store: FeatureStore) -> None:
    scans = data().scans.query("modality == 'MRI'").reset_index(drop=True).drop(columns="values")
    maps = feature_maps_of(dataclasses.replace(data(), scans=scans), store)
    assert (maps.codes, maps.shape) == ({}, None)


def test_too_many_categories_are_refused_by_name(store: FeatureStore) -> None:
    many = data()
    many.scans["values"] = [v and json.dumps({"x": None, "c": f"K{row}"}) for row, v in enumerate(many.scans["values"])]
    with pytest.raises(InputError, match="the table scores: its columns become 10 numbers .* than the 6 channels"):
        feature_maps_of(dataclasses.replace(many, scans=many.scans.assign(split="train")), store)
