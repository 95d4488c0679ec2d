"""What the record says about a brain, and what cannot be one."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from preprocessing.brains import Brain, RegistrationTarget, VolumePipeline, preprocess_volume
from preprocessing.errors import ScanError
from preprocessing.limits import Limits
from preprocessing.registration import Rigid
from preprocessing.skull_strip import SkullStripper
from preprocessing.volumes import read_volume

SIDE = 24


def _pipeline(limits: Limits | None = None, spacing_mm: float = 6.0) -> VolumePipeline:
    return VolumePipeline.ready(
        "fast", device=torch.device("cpu"), precision="fp32", parameters=None, spacing_mm=spacing_mm,
        limits=limits or Limits(),
    )  # fmt: skip


@pytest.fixture
def ball() -> np.ndarray:
    """A stripped brain, 10 voxels in radius, 4,000 voxels large; 0 outside."""
    grid = np.indices((SIDE,) * 3) - (SIDE - 1) / 2
    texture = np.random.default_rng(0).uniform(50, 100, (SIDE,) * 3)
    return np.where((grid**2).sum(0) < 10**2, texture, 0).astype(np.float32)


def _brain(
    folder: Path, voxels: np.ndarray, voxel_mm: float = 6.0, *, affine: np.ndarray | None = None,
    normalise: str = "minmax", limits: Limits | None = None, skull_strip: bool = False,
    pipeline: VolumePipeline | None = None, target: RegistrationTarget | None = None,
) -> Brain:  # fmt: skip
    image = nibabel.Nifti1Image(voxels, np.diag([-voxel_mm, voxel_mm, voxel_mm, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, folder / "a.nii.gz")
    pipeline = pipeline or _pipeline(limits, voxel_mm)
    return preprocess_volume(
        pipeline, read_volume(folder / "a.nii.gz"), target, skull_strip=skull_strip, normalise=normalise
    )


def test_the_record_of_an_ordinary_scan(tmp_path: Path, ball: np.ndarray) -> None:
    brain = _brain(tmp_path, ball)
    inside = ball[ball > 0]
    assert brain.facts == {
        "normalise": "minmax",
        "orientation": "LAS",
        "voxel_mm": [6.0, 6.0, 6.0],
        "space_from": "sform (aligned)",
        "brain_ml": pytest.approx(inside.size * 0.216, abs=0.06),
        "range_used": pytest.approx([inside.min(), inside.max()], rel=1e-5),
        "remarks": [],
    }


def test_the_range_of_another_normalisation(tmp_path: Path, ball: np.ndarray) -> None:
    ball[12, 12, 12] = 1000
    brain, inside = _brain(tmp_path, ball, normalise="minmax_robust"), np.sort(ball[ball > 0])
    ranks = [round(share * (inside.size - 1)) for share in (0.001, 0.999)]
    assert brain.facts["range_used"] == pytest.approx(inside[ranks].tolist(), rel=1e-5)
    assert brain.facts["remarks"] == []


@pytest.mark.parametrize(
    ("voxel_mm", "said"),
    [
        (4.0, "unusual brain volume: 270 ml; 500 to 2,500 are usual"),
        (9.0, "unusual brain volume: 3,079 ml; 500 to 2,500 are usual"),
    ],
)
def test_an_unusual_volume_is_remarked(tmp_path: Path, ball: np.ndarray, voxel_mm: float, said: str) -> None:
    assert _brain(tmp_path, ball, voxel_mm).facts["remarks"] == [said]


@pytest.mark.parametrize(
    ("voxel_mm", "message"),
    [
        (
            3.0,
            "taken for the brain has 1.. ml; at least 150 ml expected, and a person's brain has 500 to 2,500 ml.*in mm",
        ),
        (11.0, "taken for the brain has 5.*e.03 ml; at most 4,000 ml expected"),
        (2.0, "the whole frame has 111 ml; at least 150 ml expected"),
        (0.5, "the whole frame has 1.73 ml.*change preprocess.brain_ml and type --force preprocess"),
    ],
)
def test_what_no_brain_has_is_refused(tmp_path: Path, ball: np.ndarray, voxel_mm: float, message: str) -> None:
    with pytest.raises(ScanError, match=message):
        _brain(tmp_path, ball, voxel_mm)
    assert _brain(tmp_path, ball, voxel_mm, limits=Limits(brain_ml=(0, 1e5))).volume.max() == 1


def test_millilitres_are_by_the_determinant(tmp_path: Path, ball: np.ndarray) -> None:
    """A tilted gantry: the third axis is longer, and not at a right angle to the second."""
    skewed = np.diag([6.0, 6, 6, 1]) @ [[1, 0, 0, 0], [0, 1, 0.6, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    brain = _brain(tmp_path, ball, affine=skewed)
    assert brain.facts["brain_ml"] == pytest.approx((ball > 0).sum() * 0.216, rel=0.02)
    assert brain.facts["remarks"][0].startswith("skewed axes: up to 31.0° off right angles")


@pytest.mark.parametrize(
    ("hot", "said"),
    [(1000.0, "brightest 0.01 % of the brain take 95%"), (-1000.0, "darkest 0.01 % of the brain take 95%")],
)
def test_a_voxel_that_decides_the_range_is_remarked(tmp_path: Path, ball: np.ndarray, hot: float, said: str) -> None:
    ball[12, 12, 12] = hot
    ball[0, 0, 0] = min(hot - 1, 0)  # the background has the lowest value
    ball[ball == 0] = ball[0, 0, 0]
    brain = _brain(tmp_path, ball)
    assert [float(f"{each:.3g}") for each in brain.facts["range_used"]] in ([50.0, 1000.0], [-1000.0, 100.0])
    assert len(brain.facts["remarks"]) == 1
    assert f"few voxels decide the range: the {said}" in brain.facts["remarks"][0]
    assert "normalise: minmax_robust" in brain.facts["remarks"][0]


@pytest.mark.parametrize("shift", [0.0, -75.0])
def test_nan_around_the_brain_changes_nothing(tmp_path: Path, ball: np.ndarray, shift: float) -> None:
    outside = ball == 0
    plain = np.where(outside, -1000.0 if shift else 0.0, ball + shift).astype(np.float32)
    nan = np.where(outside, np.nan, plain).astype(np.float32)
    ours, expected = _brain(tmp_path, nan), _brain(tmp_path, plain)
    assert ours.mask.sum() - expected.mask.sum() == (-1 if shift else 0)  # its lowest value is that of the background
    np.testing.assert_allclose(ours.volume, expected.volume, atol=2e-3)
    assert ours.facts["remarks"] == [f"NaN voxels: {outside.mean():.2%} of the volume, taken for background"]


class _Mask:
    """Stands for HD-BET: the ball, whatever the voxels are."""

    device, used_dtype = torch.device("cpu"), torch.float32

    def __init__(self, mask: np.ndarray) -> None:
        self.found = torch.from_numpy(mask)
        self.on_cpu = SkullStripper()

    def mask(self, volume: torch.Tensor, affine: np.ndarray) -> torch.Tensor:
        return self.found


def _with_mask(mask: np.ndarray) -> VolumePipeline:
    from dataclasses import replace

    from preprocessing.transforms import find_brain

    stripper = _Mask(mask)
    return replace(_pipeline(), stripper=stripper, skull_strip=find_brain(stripper))  # type: ignore[arg-type]


@pytest.mark.parametrize("skull_strip", [True, False])
def test_nan_in_the_brain_is_refused(tmp_path: Path, ball: np.ndarray, skull_strip: bool) -> None:
    """The file is stored right to left, the mask of HD-BET is not."""
    pipeline, away = _with_mask((ball > 0)[::-1].copy()), ball.copy()
    away[1, 3, 2] = np.nan
    assert (
        _brain(tmp_path, away, skull_strip=skull_strip, pipeline=pipeline).facts["remarks"][0].startswith("NaN voxels")
    )
    ball[7:9, 12, 12] = np.nan
    with pytest.raises(
        ScanError, match="2 voxels inside the brain are NaN; only outside are they taken for background"
    ):
        _brain(tmp_path, ball, skull_strip=skull_strip, pipeline=pipeline)


def test_nan_in_the_brain_of_a_registered_scan_is_refused(
    tmp_path: Path, ball: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocessing.brains.register_rigid", lambda *a, **b: Rigid(np.eye(4), 0.0, 0.0, 1.0, ""))
    first = _brain(tmp_path, ball)
    raw = read_volume(tmp_path / "a.nii.gz")
    target = RegistrationTarget(
        "p_MRI", raw, torch.from_numpy(first.volume), torch.from_numpy(first.mask), first.affine, by="search"
    )
    away = ball.copy()
    away[0] = np.nan
    brain = _brain(tmp_path, away, target=target)
    assert brain.facts["registered_to"] == "p_MRI"
    assert brain.facts["brain_ml"] == first.facts["brain_ml"]
    ball[9:12, 9:12, 9:12] = np.nan
    with pytest.raises(ScanError, match="27 voxels inside the brain are NaN"):
        _brain(tmp_path, ball, target=target)


def test_a_volume_made_in_memory_has_no_header_to_speak_of(ball: np.ndarray) -> None:
    image = MetaTensor(torch.from_numpy(ball)[None], affine=np.diag([6.0, 6, 6, 1]))
    facts = preprocess_volume(_pipeline(), image, None, skull_strip=False, normalise="minmax").facts
    assert "space_from" not in facts
    assert facts["remarks"] == []
