"""Training of the diffusion engine by the stages: a loss that runs away, and states that cannot be gone on from."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from console.errors import InputError
from models.joint.blocks import FloatArray
from models.joint.diffusion import DiffusionConfig
from models.joint.diffusion_model import DiffusionModel
from models.joint.model import JointConfig, JointModel, Patients, fit_model
from pipeline.core.progress import Progress
from pipeline.training.diffusion import diffusion_engine

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = DiffusionConfig(width=8, layers=1, steps=7, batch=8, draw_steps=2, keep_every=3)
LABELS = np.arange(30) % 2


@pytest.fixture(scope="module")
def fitted() -> tuple[JointModel, FloatArray]:
    random = np.random.default_rng(0)
    features = {name: random.standard_normal((30, 8)).astype(np.float32) for name in ("MRI", "PET")}
    return fit_model(Patients(features, {}), LABELS, 2, JointConfig(components=3, draws=2))


def trained(
    fitted: tuple[JointModel, FloatArray],
    config: DiffusionConfig,
    kept: dict[str, Mapping[str, Tensor]],
    *,
    any_key: bool,
) -> tuple[DiffusionModel, Progress]:
    """Train, with states kept in a dictionary; with `any_key` the last one is given whatever the key."""
    progress = Progress("joint", config.steps, "step")
    model = diffusion_engine(
        *fitted, LABELS, config, device=torch.device("cpu"), progress=progress,
        state=lambda key: next(iter(kept.values()), None) if any_key else kept.get(key), keep=kept.__setitem__,
    )  # fmt: skip
    return model, progress


def test_a_loss_that_runs_away_is_said_with_its_setting(fitted: tuple[JointModel, FloatArray]) -> None:
    wild = dataclasses.replace(TINY, learning_rate=1e30)
    with pytest.raises(InputError, match=r"of 30 patients: the loss of step 2 is not finite.*diffusion\.learning_rate"):
        trained(fitted, wild, {}, any_key=False)


def test_a_state_of_another_network_is_no_state(fitted: tuple[JointModel, FloatArray]) -> None:
    other: dict[str, Mapping[str, Tensor]] = {}
    trained(fitted, dataclasses.replace(TINY, width=16), other, any_key=False)
    model, progress = trained(fitted, TINY, other, any_key=True)
    fresh, _ = trained(fitted, TINY, {}, any_key=False)
    assert progress.done == TINY.steps
    for name, values in fresh.engine.state_dict().items():
        torch.testing.assert_close(model.engine.state_dict()[name], values, rtol=0, atol=0)


def test_a_state_of_another_format_is_not_asked_for(
    fitted: tuple[JointModel, FloatArray], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[str, Mapping[str, Tensor]] = {}
    trained(fitted, TINY, kept, any_key=False)
    monkeypatch.setattr("pipeline.training.diffusion.FORMAT", 99)
    trained(fitted, TINY, kept, any_key=False)
    assert len(kept) == 2
