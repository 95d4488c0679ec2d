"""Skull stripping: the bookkeeping around HD-BET fast, the network itself slow."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label

from demo.phantoms import PhantomsConfig, make_scan, phantom
from devices.precision import half_precision
from preprocessing.errors import ScanError
from preprocessing.skull_strip import NETWORK_SPACING_MM, SkullStripper, check_mask, largest_component


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(bool), other.astype(bool)
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("density", [0.01, 0.04, 0.08, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_largest_component(seed: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((18, 17, 16)) < density
    labels = label(mask, connectivity=3)
    sizes = np.bincount(labels.ravel())[1:]
    ours = largest_component(torch.from_numpy(mask)).numpy()
    assert ours.sum() == sizes.max()
    assert (ours <= mask).all()
    assert label(ours, connectivity=3).max() == 1


def test_corners_connect_and_nothing_stays_nothing() -> None:
    mask = torch.zeros(9, 9, 9, dtype=torch.bool)
    assert not largest_component(mask).any()
    for i in range(4):
        mask[i, i, i] = True  # one diagonal of four
    mask[7, 2:5, 7] = True  # a row of three
    assert largest_component(mask).nonzero().tolist() == [[i, i, i] for i in range(4)]


def test_check_mask() -> None:
    mask = torch.zeros(20, 20, 20, dtype=torch.bool)
    with pytest.raises(ScanError, match="HD-BET found no brain; is it a whole head"):
        check_mask(mask)
    with pytest.raises(ScanError, match=r"fills the frame \(100\.0%\).*skull_strip: false"):
        check_mask(~mask)
    mask[5:15, 5:15, 5:15] = True
    check_mask(mask)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.9, 0.9, 6.0), (3.0, 3.0, 3.0), (1.5, 1.5, 1.5)])
def test_mask_comes_back_to_the_scans_own_voxels(monkeypatch: pytest.MonkeyPatch, spacing: tuple) -> None:
    """A network that calls the bright half brain: an ellipsoid must come back where it was, islands dropped."""
    seen = []

    def bright(self: SkullStripper, volume: torch.Tensor) -> torch.Tensor:
        seen.append(volume)
        return (volume > (volume.min() + volume.max()) / 2).float()

    monkeypatch.setattr(SkullStripper, "probability", bright)
    shape = tuple(round(120 / s) for s in spacing)
    x, y, z = np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    truth = ((x - 55) / 40) ** 2 + ((y - 66) / 45) ** 2 + ((z - 58) / 38) ** 2 < 1
    volume = np.where(truth, 900, 100).astype(np.float32)
    volume[-9:, :9, :3] = 900  # an island in a corner
    affine = np.diag([*spacing, 1.0])
    mask = SkullStripper(precision="fp32").mask(torch.from_numpy(volume), affine)
    assert mask.shape == shape
    assert mask.dtype == torch.bool
    assert _dice(mask.numpy(), truth) > 0.97
    moved_mm = np.subtract(ndimage.center_of_mass(mask.numpy()), ndimage.center_of_mass(truth)) * spacing
    assert np.abs(moved_mm).max() < 0.1  # half a voxel of either grid would be 0.5 mm and more
    assert not mask[-9:, :9, :3].any()
    # what the network saw: z, y, x at 1.5 mm, standardised
    assert seen[0].shape == tuple(round(n * s / NETWORK_SPACING_MM) for n, s in zip(shape, spacing, strict=True))[::-1]
    assert float(seen[0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(seen[0].std(correction=0)) == pytest.approx(1, abs=1e-3)
    centre = ndimage.center_of_mass((seen[0] > 0).numpy())
    np.testing.assert_allclose(centre, np.array([58, 66, 55]) / 1.5, atol=2.5)  # the order of the axes


def test_no_brain_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SkullStripper, "probability", lambda self, volume: torch.zeros_like(volume))
    with pytest.raises(ScanError, match="found no brain"):
        SkullStripper().mask(torch.rand(20, 20, 20), np.eye(4))


def test_precision_is_asked_for() -> None:
    assert SkullStripper(precision="fp32").dtype == torch.float32
    assert SkullStripper(precision="auto").dtype == half_precision(torch.device("cpu"))
    assert half_precision(torch.device("meta")) == torch.float32


# --- a GPU that is full; torch's own error, raised on the CPU ---


def _bright_networks(monkeypatch: pytest.MonkeyPatch, full: list[bool]) -> list[dict]:
    """Networks that call the bright half brain; those loaded first have no room while `full` says so."""
    loaded: list[dict] = []

    class Bright(torch.nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.first = first

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if self.first and full.pop(0):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
            return torch.cat([-image, image], 1)

    def load(number: int, **how: object) -> torch.nn.Module:
        loaded.append({"number": number, **how})
        return Bright(first=len(loaded) == 1)

    monkeypatch.setattr("preprocessing.skull_strip.load_network", load)
    return loaded


def test_a_full_gpu_hands_one_scan_to_the_cpu(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(logging.getLogger("hypermm"), "propagate", True)
    full = [False, True, False]
    loaded = _bright_networks(monkeypatch, full)
    volume = torch.zeros(30, 34, 32)
    volume[8:20, 9:25, 10:22] = 900
    stripper = SkullStripper(parameters=tmp_path)
    stripper.on_cpu.dtype = torch.float64  # so that it shows which one was used
    masks, used = [], []
    for _ in range(3):
        masks.append(stripper.mask(volume, np.eye(4)))
        used.append(stripper.used_dtype)
    assert used == [stripper.dtype, torch.float64, stripper.dtype]
    assert full == []  # the third scan was tried on the GPU again
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert masks[0][9:19, 10:24, 11:21].all()
    assert int(masks[0].sum()) == int(masks[0][6:22, 7:27, 8:24].sum())
    dtypes = (half_precision(torch.device("cpu")), torch.float64)
    assert [(each["number"], each["folder"], each["dtype"]) for each in loaded] == [
        (0, tmp_path, dtype) for dtype in dtypes
    ]
    (message,) = caplog.messages
    assert message.startswith(
        "skull stripping of 30×34×32 voxels: out of memory with HD-BET on cpu; this scan goes on with HD-BET on the CPU"
    )


# --- the real network; one phantom for everything ---


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    config = PhantomsConfig(subjects=2, mri_voxel_mm=1.5)
    return make_scan(phantom(1, config), "MRI", config)


@pytest.fixture(scope="module")
def full_mask(head: tuple) -> np.ndarray:
    volume, _, affine = head
    return SkullStripper(precision="fp32").mask(torch.from_numpy(volume.astype(np.float32)), affine).numpy()


@pytest.mark.slow
def test_hdbet_finds_the_brain_of_an_mri(head: tuple, full_mask: np.ndarray) -> None:
    _, truth, _ = head
    assert _dice(full_mask, truth) >= 0.95


@pytest.mark.slow
def test_half_precision_finds_the_same_brain(head: tuple, full_mask: np.ndarray) -> None:
    if half_precision(torch.device("cpu")) == torch.float32:
        pytest.skip("this CPU has no fast half precision, so 'auto' is single precision here")
    volume, _, affine = head
    mask = SkullStripper(precision="auto").mask(torch.from_numpy(volume.astype(np.float32)), affine).numpy()
    assert _dice(mask, full_mask) >= 0.998


@pytest.mark.slow
def test_hdbet_finds_the_brain_of_a_pet() -> None:
    config = PhantomsConfig(subjects=2)
    volume, truth, affine = make_scan(phantom(1, config), "PET", config)
    dice = _dice(SkullStripper().mask(torch.from_numpy(volume.astype(np.float32)), affine).numpy(), truth)
    assert dice >= 0.95
