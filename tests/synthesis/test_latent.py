"""The decoder kl, tiny: it learns, draws what it is told, and goes on where it was stopped."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from synthesis.latent import LatentConfig, LatentModel, fit_latent, padded

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = LatentConfig(
    channels=(8, 16), latent=2, flow=16, autoencoder_steps=60, flow_steps=100, batch=8, learning_rate=3e-3,
    draw_steps=6, keep_every=40,
)  # fmt: skip
QUICK = LatentConfig(channels=(2, 4), latent=1, flow=4, autoencoder_steps=3, flow_steps=4, batch=2, keep_every=2)
CPU = torch.device("cpu")


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Squares of 8 x 8 pixels, bright at the left for the first class and at the right for the second."""
    random = torch.Generator().manual_seed(seed)
    images = 0.1 * torch.rand(count, 1, 8, 8, generator=random)
    label = torch.arange(count) % 2
    images[label == 0, :, :, :4] += 0.7
    images[label == 1, :, :, 4:] += 0.7
    return images, torch.nn.functional.one_hot(label, 2).float()


def test_drawn_images_show_what_they_were_told() -> None:
    images, told = pictures(32)
    model = fit_latent(images, told, TINY, device=CPU)
    drawn = model.draw(told[:10], seed=1)
    assert drawn.shape == (10, 1, 8, 8)
    left, right = drawn[..., :4].mean((1, 2, 3)), drawn[..., 4:].mean((1, 2, 3))
    assert ((left > right) == (told[:10, 0] == 1)).all()
    assert (left - right).abs().mean() > 0.35
    assert torch.equal(drawn, model.draw(told[:10], seed=1))
    assert not torch.equal(drawn, model.draw(told[:10], seed=2))
    losses = dict(model.losses)
    assert losses[60] < 0.8 * losses[40]
    assert losses[160] < 0.8 * losses[80]


@pytest.mark.parametrize("stopped_at", [2, 4, 6])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(stopped_at: int) -> None:
    """In the autoencoder, in the step from it to the flow, and in the flow."""
    images, told = pictures(6)
    kept: dict[int, Mapping[str, Tensor]] = {}

    def keep(state: Mapping[str, Tensor]) -> None:
        kept[int(state["step"])] = state

    whole = fit_latent(images, told, QUICK, device=CPU, keep=keep)
    assert sorted(kept) == [2, 4, 6, 7]
    steps = []
    again = fit_latent(images, told, QUICK, device=CPU, state=kept[stopped_at], advance=lambda: steps.append(1))
    assert len(steps) == 7 - stopped_at
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert [step for step, _ in whole.losses] == [2, 3, 4, 6, 7]  # each state kept, and the end of the autoencoder
    assert again.losses == whole.losses


def test_losses_are_means_of_the_steps_since_the_row_before() -> None:
    images, told = pictures(6)
    each = fit_latent(images, told, replace(QUICK, keep_every=1), device=CPU).losses
    loss = [value for _, value in each]
    assert [step for step, _ in each] == list(range(1, 8))
    parts = {2: loss[:2], 3: loss[2:3], 4: loss[3:4], 6: loss[4:6], 7: loss[6:]}
    expected = {step: np.mean(part) for step, part in parts.items()}
    assert dict(fit_latent(images, told, QUICK, device=CPU).losses) == pytest.approx(expected)


def test_volumes_are_drawn_too_and_latents_have_unit_spread() -> None:
    images = torch.rand(4, 1, 8, 4, 8, generator=torch.Generator().manual_seed(0))
    model = fit_latent(images, torch.eye(4), QUICK, device=CPU)
    assert model.draw(torch.eye(4), seed=0).shape == (4, 1, 8, 4, 8)
    with torch.no_grad():
        latent = model.autoencoder.encode(images)[0] / model.spread
    assert float(latent.std(correction=0)) == pytest.approx(1, abs=0.2)


def test_sides_that_do_not_fit_are_named_and_padding_makes_them_fit() -> None:
    images = torch.rand(2, 1, 6, 9)
    with pytest.raises(ValueError, match="sides have to be multiples of 4"):
        fit_latent(images, torch.eye(2), QUICK, device=CPU)
    made = padded(images, 4)
    assert made.shape == (2, 1, 8, 12)
    assert torch.equal(made[:, :, :6, :9], images)
    assert float(made[:, :, 6:].abs().sum() + made[..., 9:].abs().sum()) == 0


def test_a_state_of_other_networks_is_refused() -> None:
    images, told = pictures(4)
    with pytest.raises(ValueError, match="the state is of other networks"):
        fit_latent(images, told, QUICK, device=CPU, state={"step": torch.tensor(1)})


def test_a_loss_that_is_not_finite_is_named() -> None:
    images, told = pictures(4)
    images[0, 0, 0, 0] = np.inf
    images[1:] = images[:1]
    with pytest.raises(FloatingPointError, match="the loss of step 1 is not finite"):
        fit_latent(images, told, QUICK, device=CPU)


def test_the_networks_begin_the_same_with_the_same_seed() -> None:
    one, other = (LatentModel((1, 8, 8), 2, QUICK).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
