"""The diffusion engine against known truth: draws from any blocks, given ones untouched, and what it refuses."""

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pytest
import torch
from helpers.joint_world import World, with_gaps, world
from torch import Tensor

from models.joint import diffusion_fit
from models.joint.blocks import Blocks
from models.joint.diffusion import Apart, Diffusion, DiffusionConfig
from models.joint.diffusion_fit import fit_diffusion, given_blocks, held_out_loss
from models.joint.diffusion_model import DiffusionModel, NeedsLinearError, with_diffusion
from models.joint.gaussian import regression
from models.joint.model import JointConfig, JointModel, Patients, fit_model
from models.joint.state import from_arrays, to_arrays

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = DiffusionConfig(
    width=48, layers=2, steps=350, batch=256, learning_rate=4e-3, average=0.98, draw_steps=25, keep_every=200
)
TINY = DiffusionConfig(width=8, layers=1, steps=7, batch=4, draw_steps=3, keep_every=2)


@pytest.fixture(scope="module")
def known(one_thread: None) -> tuple[World, Diffusion]:
    """Two linked blocks of known distribution, a fifth of the patients without one of them."""
    here, random = world(0, (2, 3), link=0.8), np.random.default_rng(0)
    rows, labels = here.draw(3000, random)
    return here, fit_diffusion(with_gaps(rows, here.blocks, 0.2, random), labels, here.blocks, 2, SMALL)


@pytest.mark.parametrize("lost", [0, 1])
def test_draws_have_the_mean_and_spread_that_are_known(known: tuple[World, Diffusion], lost: int) -> None:
    here, engine = known
    rows, labels = here.draw(150, np.random.default_rng(1))
    seen, missing = (np.flatnonzero((here.blocks.owner == lost) == gone) for gone in (False, True))
    given = np.where(here.blocks.owner == lost, np.nan, rows)
    drawn, classes = engine.draw(given, 60, np.random.default_rng(2), labels)
    slope, left = regression(here.covariance, seen, missing)
    mean = here.mean[labels][:, missing] + (rows - here.mean[labels])[:, seen] @ slope.T
    apart = (drawn[:, :, missing] - mean) / np.sqrt(np.diag(left))
    assert np.sqrt((apart.mean(axis=0) ** 2).mean()) < 0.35  # .13 by chance alone; 1.3 and more without what is given
    assert 0.8 < apart.std(axis=0).mean() < 1.15
    assert (drawn[:, :, seen] == rows[:, seen]).all()  # to the last bit
    assert (classes == labels).all()


def test_classes_are_drawn_as_often_as_they_are_likely(known: tuple[World, Diffusion]) -> None:
    here, engine = known
    rows, labels = here.draw(200, np.random.default_rng(3))
    rows[:, here.blocks.owner == 1] = np.nan
    _, classes = engine.draw(rows, 40, np.random.default_rng(4))
    seen = here.blocks.owner == 0
    off = rows[:, None, seen] - here.mean[:, seen]
    likely = np.exp(-0.5 * np.einsum("nki,ij,nkj->nk", off, np.linalg.inv(here.covariance[np.ix_(seen, seen)]), off))
    truth = likely[:, 1] / likely.sum(axis=1)
    assert np.abs(classes.mean(axis=0) - truth).mean() < 0.1
    assert set(np.unique(labels)) == {0, 1}


def test_patients_that_never_were_are_spread_as_the_known_ones(known: tuple[World, Diffusion]) -> None:
    here, engine = known
    made, classes = engine.draw(np.full((1500, 5), np.nan), 1, np.random.default_rng(5))
    real, _ = here.draw(20_000, np.random.default_rng(6))
    assert np.abs(np.cov(made[0].T) - np.cov(real.T)).max() < 0.3
    assert classes.mean() == pytest.approx(0.5, abs=0.08)


def test_the_loss_of_others_is_that_of_patients_who_are_given_and_falls_with_training(
    known: tuple[World, Diffusion],
) -> None:
    here, engine = known
    rows, labels = here.draw(400, np.random.default_rng(7))
    loss = held_out_loss(engine, rows, labels)
    assert held_out_loss(engine, rows, labels) == loss
    assert held_out_loss(engine, rows, labels, seed=1) != loss
    untrained = Diffusion(here.blocks, 2, SMALL).eval()
    untrained.load_state_dict({**untrained.state_dict(), "centre": engine.centre, "spread": engine.spread})
    assert held_out_loss(untrained, rows, labels) == pytest.approx(1, abs=0.15)  # that of a network that says nothing
    assert loss < 0.8
    strangers = rows + 10 * rows.std(axis=0)
    assert held_out_loss(engine, strangers, labels) > 5 * loss


def test_a_link_that_is_no_line_is_learnt() -> None:
    """The second number is the square of the first: the linear engine has nothing to go by."""
    random = np.random.default_rng(0)
    first = random.standard_normal((2000, 1))
    rows = np.concatenate([first, first**2 + 0.1 * random.standard_normal((2000, 1))], axis=1)
    config = dataclasses.replace(SMALL, steps=250, width=32)
    engine = fit_diffusion(rows, np.zeros(2000, dtype=np.int64), Blocks(("a", "b"), (1, 1)), 1, config)
    asked = np.column_stack([np.linspace(-1.5, 1.5, 41), np.full(41, np.nan)])
    drawn, classes = engine.draw(asked, 30, random)
    assert np.corrcoef(drawn[:, :, 1].mean(axis=0), asked[:, 0] ** 2)[0, 1] > 0.9
    assert (classes == 0).all()


@pytest.mark.parametrize("more", [{}, {"dropout": 0.3, "weight_decay": 0.5}])
def test_a_training_that_was_stopped_goes_on_as_if_it_had_not(more: dict[str, float]) -> None:
    here, config = world(1, (2, 2)), dataclasses.replace(TINY, **more)
    rows, labels = here.draw(12, np.random.default_rng(0))
    kept: dict[int, Mapping[str, Tensor]] = {}

    def keep(state: Mapping[str, Tensor]) -> None:
        kept[int(state["step"])] = state

    whole = fit_diffusion(rows, labels, here.blocks, 2, config, keep=keep)
    assert sorted(kept) == [2, 4, 6, 7]
    for stopped_at in (2, 6, 7):
        steps: list[int] = []
        torch.manual_seed(stopped_at)  # the chance of another process
        again = fit_diffusion(
            rows, labels, here.blocks, 2, config, state=kept[stopped_at], advance=partial(steps.append, 1)
        )
        assert len(steps) == 7 - stopped_at
        for name, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(ValueError, match="the state is of another network"):
        fit_diffusion(rows, labels, here.blocks, 2, dataclasses.replace(config, width=9), state=kept[2])


def test_dropout_hides_in_training_alone_and_leaves_the_chance_of_others() -> None:
    here = world(1, (2, 2))
    rows, labels = here.draw(12, np.random.default_rng(0))
    hiding = dataclasses.replace(TINY, dropout=0.5)
    plain = fit_diffusion(rows, labels, here.blocks, 2, TINY)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    engine = fit_diffusion(rows, labels, here.blocks, 2, hiding)
    assert torch.equal(torch.get_rng_state(), before)
    last = "network.last.1.weight"
    assert not torch.equal(engine.state_dict()[last], plain.state_dict()[last])
    one, other = (engine.draw(rows * np.nan, 1, np.random.default_rng(1))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert held_out_loss(engine, rows, labels) == held_out_loss(engine, rows, labels)


def test_dropout_hides_other_numbers_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    here, told, real = world(1, (2, 2)), [], diffusion_fit._own_chance

    def own_chance(device: str, seed: int) -> AbstractContextManager[None]:
        told.append(seed)
        return real(device, seed)

    monkeypatch.setattr(diffusion_fit, "_own_chance", own_chance)
    for seed in (0, 1):
        config = dataclasses.replace(TINY, seed=seed)
        fit_diffusion(*here.draw(12, np.random.default_rng(0)), here.blocks, 2, config)
    assert len(set(told)) == 14


def test_weight_decay_takes_its_share_of_every_weight_in_each_step() -> None:
    here = world(1, (2, 2))
    rows, labels = here.draw(12, np.random.default_rng(0))
    one = dataclasses.replace(TINY, steps=1, average=0.0)
    plain = fit_diffusion(rows, labels, here.blocks, 2, one).network.state_dict()
    less = fit_diffusion(
        rows, labels, here.blocks, 2, dataclasses.replace(one, weight_decay=200.0)
    ).network.state_dict()
    start = Diffusion(here.blocks, 2, one).network.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(less[name], value - 0.2 * start[name])  # .001 · 200 of what it was


def test_each_block_has_weights_of_its_own_and_hears_of_the_others() -> None:
    layer, x = Apart(3, 4, 2), torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    by_hand = [x[b].numpy() @ layer.weight[b].detach().numpy() + layer.bias[b].detach().numpy() for b in range(3)]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(by_hand), rtol=1e-5, atol=1e-6)
    assert not torch.equal(layer.weight[0], layer.weight[1])

    network = Diffusion(Blocks(("a", "b"), (3, 2)), 1, TINY).network
    random = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if name.startswith("last.") or ".back." in name:  # these begin with 0
            torch.nn.init.normal_(parameter, generator=random)
    noisy, times = torch.randn(4, 5, generator=random), torch.tensor([[0.0, 0.7]]).repeat(4, 1)
    other = noisy.clone()
    other[:, :3] += 1
    assert (network(noisy, times) - network(other, times))[:, 3:].abs().min() > 1e-6
    assert (network(noisy, times) - network(noisy, times.flip(1))).abs().min() > 1e-6
    np.testing.assert_allclose(  # rows do not hear of each other
        network(noisy, times)[1:].detach().numpy(), network(noisy[1:], times[1:]).detach().numpy(), atol=1e-5
    )


def test_some_blocks_are_given_never_all_and_never_one_that_is_missing() -> None:
    there = torch.tensor([[True, True, True], [True, False, True], [False, True, False]]).repeat(400, 1)
    given = given_blocks(there, torch.Generator().manual_seed(0))
    assert not (given & ~there).any()
    assert (given.sum(1) < there.sum(1)).all()
    shares = [float((given[::3].sum(1) == number).float().mean()) for number in range(3)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.1)
    assert given[::3].float().mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.1)


def test_what_a_patient_lacks_is_neither_learnt_nor_seen() -> None:
    here = world(1, (2, 2))
    rows, labels = here.draw(8, np.random.default_rng(0))
    rows[:, :2] = np.nan
    engine = Diffusion(here.blocks, 2, TINY)
    random = torch.Generator().manual_seed(0)
    for last in engine.network.last:
        torch.nn.init.normal_(last.weight, generator=random)
    values, there = engine.whitened(rows, labels)
    assert not there[:, 0].any()

    def loss(numbers: Tensor) -> float:
        return float(diffusion_fit._loss(engine, numbers, there, torch.Generator().manual_seed(1)).detach())

    other = values.clone()
    other[:, :2] = 1000.0
    assert loss(values) == loss(other)
    other[:, 2] = 1000.0
    assert loss(values) != loss(other)


def test_labels_of_patients_who_are_asked_about_do_not_enter() -> None:
    here = world(1, (2, 2))
    rows, labels = here.draw(6, np.random.default_rng(0))
    engine = Diffusion(here.blocks, 2, TINY)
    values, there = engine.whitened(rows, None)
    assert not there[:, -1].any()
    assert float(values[:, -2:].abs().sum()) == 0
    values, there = engine.whitened(rows, labels)
    assert there[:, -1].all()
    assert (values[:, -2:].argmax(1).numpy() == labels).all()


def test_bad_numbers_are_refused() -> None:
    here = world(1, (2, 2))
    rows, labels = here.draw(6, np.random.default_rng(0))
    half, endless = rows.copy(), rows.copy()
    half[2, 0], endless[3, 1] = np.nan, np.inf
    for wrong, said in ((half, "row 2: part of a is NaN"), (endless, "row 3: an infinite score")):
        with pytest.raises(ValueError, match=said):
            fit_diffusion(wrong, labels, here.blocks, 2, TINY)
        with pytest.raises(ValueError, match=said):
            Diffusion(here.blocks, 2, TINY).draw(wrong, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"labels \[0 1\] of 6 rows; expected 0 to 1"):
        Diffusion(here.blocks, 2, TINY).draw(rows, 1, np.random.default_rng(0), labels[:5])
    with pytest.raises(ValueError, match="expected 0 to 1"):
        fit_diffusion(rows, labels + 1, here.blocks, 2, TINY)
    with pytest.raises(ValueError, match="0 patients and 7 steps"):
        fit_diffusion(rows[:0], labels[:0], here.blocks, 2, TINY)
    with pytest.raises(FloatingPointError, match="the loss of step 2 is not finite"):
        fit_diffusion(rows, labels, here.blocks, 2, dataclasses.replace(TINY, learning_rate=1e30))


# --- beside the linear model ---


@pytest.fixture(scope="module")
def both(one_thread: None) -> tuple[JointModel, DiffusionModel, Patients]:
    """Feature maps of two modalities with a shared factor; the linear model, and the same with a tiny network."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    shared = random.standard_normal((60, 1)) + 2 * labels[:, None]
    features = {
        name: (shared @ random.standard_normal((1, 8)) + random.standard_normal((60, 8))).astype(np.float32)
        for name in ("MRI", "PET")
    }
    features["PET"][:20] = np.nan
    patients = Patients(features, {})
    model, scores = fit_model(patients, labels, 2, JointConfig(draws=2))
    config = dataclasses.replace(SMALL, steps=120, width=16, draw_steps=8)
    return model, with_diffusion(model, scores, labels, config), patients


def test_answers_are_reckoned_from_draws(both: tuple[JointModel, DiffusionModel, Patients]) -> None:
    linear, model, patients = both
    mean, covariance = model.embed(patients)
    same, _ = linear.embed(patients)
    np.testing.assert_allclose(mean[20:], same[20:], atol=1e-6)  # all scans: no draw
    assert np.abs(covariance[20:]).max() == 0
    assert (np.linalg.eigvalsh(covariance[:20])[:, -1] > 0.01).all()
    shares = model.class_probabilities(patients)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    guess, sd = model.impute(patients.rows(np.arange(20)), "PET")
    assert guess.shape == sd.shape == (20, 8)
    assert (sd > 0).all()
    again, _ = model.impute(patients.rows(np.arange(20)), "PET")
    np.testing.assert_array_equal(guess, again)
    means = model.class_means()
    assert means[1, 0] * np.sign(linear.class_means()[1, 0]) > means[0, 0] * np.sign(linear.class_means()[1, 0])
    assert any("learnt from 60 patients; with fewer than 1000" in note for note in model.notes)


def test_it_draws_the_same_from_a_file(both: tuple[JointModel, DiffusionModel, Patients]) -> None:
    _, model, patients = both
    arrays, facts = to_arrays(model)
    read = from_arrays(arrays, facts)
    assert isinstance(read, DiffusionModel)
    one, other = (each.draw(patients, 2, np.random.default_rng(1))[0]["PET"] for each in (model, read))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(model.embed(patients)[0], read.embed(patients)[0])
    name = next(name for name in arrays if name.startswith("diffusion."))
    with pytest.raises(ValueError, match="no network of the diffusion engine"):
        from_arrays({key: value for key, value in arrays.items() if key != name}, facts)
    with pytest.raises(ValueError, match=r"diffusion\..* holds numbers that are not finite"):
        from_arrays({**arrays, name: np.full_like(arrays[name], np.nan)}, facts)


def test_what_needs_sums_or_a_density_is_refused(both: tuple[JointModel, DiffusionModel, Patients]) -> None:
    linear, model, patients = both
    for refused, said in (
        (lambda: model.merge(linear), "networks do not add up; fit engine: linear"),
        (lambda: model.subtract(linear), "a patient is not taken out of a network"),
        (lambda: model.log_density(model.scores(patients)), "has no density; fit engine: linear"),
    ):
        with pytest.raises(NeedsLinearError, match=said):
            refused()
