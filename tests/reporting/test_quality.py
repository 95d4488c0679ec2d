"""The table of quality control: what a record says, what it does not, and whom to look at first."""

import numpy as np
import pandas as pd
import pytest

from reporting.quality import COLUMNS, quality_of, quality_tables

WHOLE = {
    "kind": "volume", "orientation": "LAS", "voxel_mm": [0.9375, 0.9375, 1.2], "space_from": "sform",
    "brain_ml": 1432.4, "range_used": [-3.5, 4095.0], "remarks": [],
}  # fmt: skip


def record(scan: str, **more: object) -> dict[str, object]:
    return {"scan": scan, "subject": scan[:2], "modality": "MRI", **WHOLE, **more}


def cells(records: list[dict[str, object]], *, limit: int = 100) -> dict[str, dict[str, str]]:
    """Scan → header → cell, of all tables."""
    tables = [table for _, table in quality_tables(quality_of(records), limit=limit)]
    return {row[0]: dict(zip(table.headers, row, strict=True)) for table in tables for row in table.rows}


def test_a_volume_says_where_its_place_was_read_from() -> None:
    assert cells([record("p1")])["p1"] == {
        "Scan": "p1", "Modality": "MRI", "Axes": "LAS", "Voxel, mm": "0.938 × 0.938 × 1.2", "Place read from": "sform",
        "Brain, ml (distance)": "1,432 (+0.0)", "Range used": "−3.5 to 4,095", "Remarks": "",
    }  # fmt: skip


@pytest.mark.parametrize("empty", [{}, dict.fromkeys(("voxel_mm", "range_used", "remarks", "brain_ml", "orientation"))])
def test_what_a_record_does_not_say_is_a_dash(empty: dict[str, object]) -> None:
    old = {"scan": "p1", "subject": "p1", "modality": "MRI", "kind": "volume", **empty}
    assert list(cells([old])["p1"].values()) == ["p1", "MRI", *["–"] * 5, ""]
    picture = {**old, "kind": "image"}
    assert list(cells([picture])["p1"].values()) == ["p1", "MRI", *["–"] * 3, ""]
    assert quality_of([]).columns.tolist() == quality_of([old]).columns.tolist() == list(COLUMNS)


def test_a_picture_says_its_pixels_depth_and_turn() -> None:
    picture = {
        "scan": "s1", "subject": "s", "modality": "40X", "kind": "image", "pixels": [460, 700], "bits": 12,
        "turned": "by 180°", "remarks": ["scaled by 12 of 16 bits"],
    }  # fmt: skip
    assert list(cells([picture])["s1"].values()) == [
        "s1",
        "40X",
        "700 × 460",
        "12",
        "by 180°",
        "Scaled by 12 of 16 bits.",
    ]
    for turned, said in (("by 90°", "by 90°"), ("", "no"), (None, "–")):
        assert cells([picture | {"turned": turned}])["s1"]["Turned"] == said


def test_most_remarks_come_first_then_unusual_brains_of_each_modality_then_names() -> None:
    usual = [record(f"m{i}", brain_ml=1400.0 + 10 * i) for i in range(5)]  # median 1420, robust SD 14.8
    small = [record(f"t{i}", modality="PET", brain_ml=900.0 + i) for i in range(3)]  # of another modality
    odd = [
        record("one", brain_ml=1420.0, remarks=["few voxels decide the range"]),
        record("two", brain_ml=1420.0, remarks=["a: b", "c: d"]),
        record("far", brain_ml=1200.0),
        record("unknown", brain_ml=None),
        record("alone", brain_ml=1420.0, not_registered="turned by 80° (with q_MRI)"),
    ]
    order = quality_of([*usual, *small, *odd])["scan"].tolist()
    assert order[:4] == ["two", "alone", "one", "far"]
    assert order.index("t0") < order.index("m2") < order.index("unknown")
    assert cells([*usual, *small, *odd])["alone"]["Remarks"] == "Not registered: turned by 80° (with q_MRI)."
    assert cells([*usual, *small, *odd])["two"]["Remarks"] == "A: b. C: d."
    (_, table), *_ = quality_tables(quality_of(odd), limit=10)
    assert table.flagged == {0, 1, 2}


def test_the_distance_is_robust_and_makes_nothing_of_a_millilitre() -> None:
    same = quality_of([record(f"p{i}", brain_ml=1400.0) for i in range(4)] + [record("q", brain_ml=1399.5)])
    assert same.set_index("scan")["brain_deviation"].to_dict() == {"q": -0.5, "p0": 0, "p1": 0, "p2": 0, "p3": 0}
    values = np.random.default_rng(0).normal(1400, 100, 4001)
    found = quality_of([record(f"{i:05d}", brain_ml=v) for i, v in enumerate(values)]).sort_values("scan")
    np.testing.assert_allclose(found["brain_deviation"], (values - 1400) / 100, atol=0.2)


def test_long_cohorts_are_cut_and_say_where_the_rest_is() -> None:
    ((caption, table),) = quality_tables(quality_of([record(f"p{i:05d}") for i in range(1200)]), limit=500)
    assert len(table.rows) == 500
    assert caption == (
        "1,200 volumes, those to look at first on top; the first 500 here, all in qc.csv beside this page"
    )
    both = quality_tables(quality_of([record("p"), {**record("q"), "kind": "image"}]), limit=5)
    assert [caption for caption, _ in both] == [
        "1 volume, those to look at first on top", "1 picture, those to look at first on top"
    ]  # fmt: skip


def test_the_table_is_one_of_numbers(tmp_path) -> None:
    quality_of([record("p1"), record("p2", brain_ml=None)]).to_csv(tmp_path / "qc.csv", index=False)
    read = pd.read_csv(tmp_path / "qc.csv")
    assert list(read.columns) == list(COLUMNS)
    assert read.loc[0, ["voxel_x_mm", "voxel_z_mm", "brain_ml", "range_low", "range_high"]].tolist() == [
        0.9375, 1.2, 1432.4, -3.5, 4095.0
    ]  # fmt: skip
