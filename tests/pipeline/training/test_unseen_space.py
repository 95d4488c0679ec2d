"""A space that no generator has seen: what is different there, and what is left out without the network."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.training.unseen_space import UnseenSpace
from preprocessing.parameters import ParametersError
from synthesis.grid import box_shape

pytestmark = pytest.mark.usefixtures("one_thread", "thin_backbone")
SIDE = 32


def test_pictures_of_other_textures_lie_apart_and_missing_ones_stay_missing() -> None:
    random = np.random.default_rng(0)
    smooth = np.repeat(np.linspace(0, 1, SIDE), 3)[None].repeat(SIDE, 0).ravel() + 0.02 * random.random(
        (4, SIDE**2 * 3)
    )
    rough = random.random((4, SIDE**2 * 3))
    rows = np.concatenate([smooth, rough, np.full((1, SIDE**2 * 3), np.nan)])
    space = UnseenSpace(spacing_mm=4.0, pixels=SIDE, parameters=None)
    found = space.features(rows, "image")
    assert np.isnan(found[8]).all()
    assert np.isfinite(found[:8]).all()
    within = np.linalg.norm(found[0] - found[1])
    assert np.linalg.norm(found[0] - found[4]) > 3 * within
    np.testing.assert_array_equal(
        found, UnseenSpace(spacing_mm=4.0, pixels=SIDE, parameters=None).features(rows, "image")
    )
    assert space.why_not("image") == ""


class Coarse(torch.nn.Module):
    """In the place of HD-BET: the mean of the whole, and of its upper half."""

    def bottleneck(self, volume: torch.Tensor) -> torch.Tensor:
        assert all(side % 16 == 0 for side in volume.shape[2:])
        return torch.stack([volume.mean(), volume[0, 0, volume.shape[2] // 4 :].mean()])


def test_volumes_are_standardised_and_turned_as_hd_bet_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.unseen_space.load_network", lambda *_, **__: Coarse())
    monkeypatch.setattr("pipeline.training.unseen_space.UNet", Coarse)
    space = UnseenSpace(spacing_mm=8.0, pixels=SIDE, parameters=None)
    shape = box_shape(8.0)
    volume = np.zeros(shape)
    volume[:, :, shape[2] // 2 :] = 0.5  # the upper half
    rows = np.stack([volume.ravel(), 0.5 * volume.ravel()])
    found = space.features(rows, "volume")
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)  # brightness does not matter
    assert found[0, 1] > found[0, 0] + 0.05
    assert space.why_not("volume") == ""


def test_without_hd_bet_s_parameters_the_reason_is_told(tmp_path: Path) -> None:
    space = UnseenSpace(spacing_mm=4.0, pixels=SIDE, parameters=tmp_path)
    assert str(tmp_path / "0.model") in space.why_not("volume")
    with pytest.raises(ParametersError):
        space.features(np.zeros((1, int(np.prod(box_shape(4.0))))), "volume")
