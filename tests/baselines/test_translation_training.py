"""pix2pix and cycleGAN: steps written out by hand, learning by heart, kill and resume, the image pool."""

import copy

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.translation.cyclegan import CycleGan, CycleGanSettings, ImagePool
from baselines.translation.networks import UNet
from baselines.translation.pix2pix import Pix2Pix, Pix2PixSettings
from baselines.translation.training import SHOWN, Epoch, Trainer, to_signed, translate

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIZE = 32
SMALL = {"width": 4, "discriminator_layers": 2}


def _pairs(count: int = 2, size: int = SIZE) -> tuple[Tensor, Tensor, Tensor]:
    """Discs of different sizes with a smooth texture, the same inverted inside the disc, and the discs."""
    grid = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    textures, masks = [], []
    for number in range(count):
        textures.append(0.5 + 0.45 * torch.sin((3 + number) * x + number) * torch.cos(4 * y - number))
        masks.append(x**2 + y**2 < (0.9 - 0.2 * number / count) ** 2)
    mask = torch.stack(masks)[:, None]
    texture = torch.stack(textures)[:, None]
    return texture * mask, (1 - texture) * mask, mask


def _pix2pix(size: int = SIZE, dtype: torch.dtype = torch.float32, **settings) -> Pix2Pix:
    return Pix2Pix(size, Pix2PixSettings(**SMALL | settings), seed=0, device=CPU, dtype=dtype)


def _cyclegan(size: int = SIZE, dtype: torch.dtype = torch.float32, **settings) -> CycleGan:
    return CycleGan(size, CycleGanSettings(**SMALL | {"blocks": 1} | settings), seed=0, device=CPU, dtype=dtype)


def test_pix2pix_learns_two_pairs_by_heart() -> None:
    source, target, _ = _pairs()
    gan = _pix2pix(width=8, epochs=120, learning_rate=2e-3)
    rows = [epoch.row for epoch in Trainer(gan, source, target, seed=0).epochs()]
    error = (translate(gan.networks["a_to_b"], source) - target).abs().mean()
    copied = (source - target).abs().mean()
    assert copied > 0.1
    assert error < 0.2 * copied
    assert rows[-1]["l1"] < 0.2 * rows[0]["l1"]
    assert [row["epoch"] for row in rows] == list(range(1, 121))


def test_cyclegan_learns_an_inversion_from_unpaired_slices() -> None:
    """Nothing says which slice belongs to which: a result may be any of the targets, but must lead back."""
    source, target, _ = _pairs()
    gan = _cyclegan(width=8, epochs=100, learning_rate=2e-3, identity_weight=0.0, pool=4)
    rows = [epoch.row for epoch in Trainer(gan, source, target.flip(0), seed=0).epochs()]
    made = translate(gan.networks["a_to_b"], source)
    back = translate(gan.networks["b_to_a"], made)
    assert rows[-1]["cycle"] < 0.2 * rows[0]["cycle"]
    assert (back - source).abs().mean() < 0.2 * (target - source).abs().mean()
    assert _to_nearest(made, target) < 0.3 * _to_nearest(source, target)


def _to_nearest(slices: Tensor, others: Tensor) -> float:
    """Mean absolute difference between each slice and the one of the others that is most like it."""
    return float((slices - others.transpose(0, 1)).abs().mean((2, 3)).amin(1).mean())


@pytest.mark.parametrize("steps", [1, 3])
def test_steps_of_pix2pix_are_those_of_the_paper(steps: int) -> None:
    """Written out with torch's own losses and its plain Adam."""
    source, target, _ = (to_signed(slices.float()) for slices in _pairs())
    gan = _pix2pix(learning_rate=1e-3)
    assert all(module.p == 0 for module in gan.networks.modules() if isinstance(module, nn.Dropout))
    made_by, judge = (copy.deepcopy(gan.networks[name]) for name in ("a_to_b", "judge"))
    adams = [torch.optim.Adam(m.parameters(), lr=1e-3, betas=(0.5, 0.999)) for m in (made_by, judge)]
    for _ in range(steps):
        losses = gan.step(source, target, torch.Generator())
        made = made_by(source)
        real, fake = judge(torch.cat([source, target], 1)), judge(torch.cat([source, made.detach()], 1))
        judged = (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2  # -log D(real), -log(1 - D(fake))
        adams[1].zero_grad()
        judged.backward()
        adams[1].step()
        fooled, l1 = F.softplus(-judge(torch.cat([source, made], 1))).mean(), F.l1_loss(made, target)
        adams[0].zero_grad()
        (fooled + 100 * l1).backward()
        adams[0].step()
        expected = {"adversarial": fooled, "l1": l1, "discriminator": judged}
        assert {k: v.item() for k, v in losses.items()} == pytest.approx({k: v.item() for k, v in expected.items()})
    for network, by_hand in ((gan.networks["a_to_b"], made_by), (gan.networks["judge"], judge)):
        # Adam's first step of a gradient near 0 depends on its last digits, which differ between instruction sets
        torch.testing.assert_close(network.state_dict(), by_hand.state_dict(), atol=4e-4, rtol=0)


@pytest.mark.parametrize("identity", [0.0, 5.0])
def test_a_step_of_cyclegan_is_that_of_the_paper(identity: float) -> None:
    a, b, _ = (to_signed(slices.float()) for slices in _pairs())
    gan = _cyclegan(learning_rate=1e-3, identity_weight=identity)
    names = ("a_to_b", "b_to_a", "judge_a", "judge_b")
    g, f, judge_a, judge_b = (copy.deepcopy(gan.networks[name]) for name in names)
    adams = [
        torch.optim.Adam([*x.parameters(), *y.parameters()], lr=1e-3, betas=(0.5, 0.999))
        for x, y in ((g, f), (judge_a, judge_b))
    ]
    losses = gan.step(a, b, torch.Generator())
    made_b, made_a = g(a), f(b)
    fooled = (judge_b(made_b) - 1).square().mean() + (judge_a(made_a) - 1).square().mean()
    cycle, same = F.l1_loss(f(made_b), a) + F.l1_loss(g(made_a), b), F.l1_loss(f(a), a) + F.l1_loss(g(b), b)
    (fooled + 10 * cycle + identity * same).backward()
    adams[0].step()
    adams[1].zero_grad()
    judged = (
        (judge_b(b) - 1).square().mean() + judge_b(made_b.detach()).square().mean()
        + (judge_a(a) - 1).square().mean() + judge_a(made_a.detach()).square().mean()
    ) / 2  # fmt: skip
    judged.backward()
    adams[1].step()
    expected = [fooled.item(), cycle.item(), same.item() if identity else 0.0, judged.item()]
    assert [losses[k].item() for k in ("adversarial", "cycle", "identity", "discriminator")] == pytest.approx(expected)
    for name, by_hand in zip(names, (g, f, judge_a, judge_b), strict=True):
        torch.testing.assert_close(gan.networks[name].state_dict(), by_hand.state_dict(), atol=2e-4, rtol=0)


def _make(name: str, dtype: torch.dtype) -> Trainer:
    """Dropout, a full image pool, a falling rate: everything that could begin anew by mistake is at work."""
    if name == "pix2pix":
        gan = _pix2pix(64, dtype, width=2, epochs=3, batch_size=2)
        assert any(module.p for module in gan.networks.modules() if isinstance(module, nn.Dropout))
        return Trainer(gan, *_pairs(3, size=64)[:2], seed=7)
    source, target, _ = _pairs(3)
    return Trainer(_cyclegan(dtype=dtype, width=2, epochs=3, pool=2), source, target[:2], seed=7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["pix2pix", "cyclegan"])
def test_killed_after_one_epoch_and_resumed_is_never_killed(name: str, dtype: torch.dtype) -> None:
    whole = _make(name, dtype)
    undisturbed = list(whole.epochs())
    killed = _make(name, dtype)
    first = next(killed.epochs())
    saved = safetensors.torch.save(killed.state())
    resumed = _make(name, dtype)
    resumed.load_state(safetensors.torch.load(saved))
    torch.rand(5)  # whatever else happens in the run
    epochs = [first, *resumed.epochs()]
    assert [epoch.row for epoch in epochs] == [epoch.row for epoch in undisturbed]
    assert all(torch.equal(a.picture, b.picture) for a, b in zip(epochs, undisturbed, strict=True))
    assert safetensors.torch.save(resumed.state()) == safetensors.torch.save(whole.state())
    assert not list(resumed.epochs())  # all are done


def test_the_seed_is_of_everything() -> None:
    """Another seed of the epochs, with the same first weights, gives another order; torch's own state stays."""
    source, target, _ = _pairs(3)
    before, rows = torch.get_rng_state(), []
    for seed in (1, 1, 2):
        gan = _cyclegan(width=2, epochs=1)
        before = torch.get_rng_state()
        rows.append(next(Trainer(gan, source, target, seed=seed).epochs()).row)
        assert torch.equal(torch.get_rng_state(), before)
    assert rows[0] == rows[1] != rows[2]


class _Recorder:
    """Notes the slices it is shown, by the value each is filled with; learns nothing."""

    def __init__(self, paired: bool, batch_size: int = 2) -> None:
        self.networks, self.optimisers = nn.ModuleDict(), {}
        self.size, self.device, self.epochs, self.batch_size, self.paired = 4, CPU, 2, batch_size, paired
        self.seen: list[tuple[list, list]] = []

    def learning_rate(self, epoch: int) -> float:
        return 1.0

    def step(self, source: Tensor, target: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        self.seen.append(tuple(((x[:, 0, 0, 0] + 1) * 32).tolist() for x in (source, target)))
        return {"mean": source.mean()}

    def look(self, source: Tensor, target: Tensor) -> list[Tensor]:
        return [source, target]


def _numbered(count: int) -> Tensor:
    return (torch.arange(count) / 64).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def test_pairs_stay_together_and_come_once_an_epoch() -> None:
    gan = _Recorder(paired=True)
    first, second = Trainer(gan, _numbered(5), _numbered(5), seed=0).epochs()
    assert [len(a) for a, _ in gan.seen] == [2, 2, 1] * 2
    assert all(a == b for a, b in gan.seen)
    orders = [sum((a for a, _ in gan.seen[i : i + 3]), []) for i in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == [0, 1, 2, 3, 4]
    assert orders[0] != orders[1]
    assert first.row == {"epoch": 1, "learning_rate": 1.0, "mean": pytest.approx(2 * 2 / 64 - 1)}  # over slices
    assert second.row["mean"] == pytest.approx(first.row["mean"])


def test_unpaired_sides_are_shuffled_apart_and_the_smaller_begins_again() -> None:
    gan = _Recorder(paired=False)
    next(Trainer(gan, _numbered(3), _numbered(12), seed=0).epochs())
    source, target = (sum(side, []) for side in zip(*gan.seen, strict=True))
    assert sorted(target) == list(range(12))
    assert target != sorted(target)
    assert source == source[:3] * 4
    assert sorted(source[:3]) == [0, 1, 2]


def test_the_picture_of_an_epoch() -> None:
    source, target, _ = _pairs(6)
    for gan, columns in ((_pix2pix(width=2, epochs=1), 3), (_cyclegan(width=2, epochs=1), 6)):
        (epoch,) = Trainer(gan, source, target, seed=0).epochs()
        assert isinstance(epoch, Epoch)
        assert epoch.picture.shape == (SHOWN * SIZE, columns * SIZE)
        assert epoch.picture.dtype == torch.float32
        tiles = epoch.picture.unflatten(0, (SHOWN, SIZE)).unflatten(2, (columns, SIZE)).movedim(2, 1)
        torch.testing.assert_close(tiles[0, 0], source[0, 0])
        torch.testing.assert_close(tiles[-1, 0], source[-1, 0])
        torch.testing.assert_close(tiles[-1, 2 if columns == 3 else 3], target[-1, 0])
        made = translate(gan.networks["a_to_b"], source)
        torch.testing.assert_close(tiles[-1, 1], made[-1, 0], atol=1e-5, rtol=0)
        if columns == 6:
            torch.testing.assert_close(tiles[-1, 2], translate(gan.networks["b_to_a"], made)[-1, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("epochs", "factors"), [(1, [0.5]), (2, [1, 0.5]), (4, [1, 1, 2 / 3, 1 / 3])])
def test_the_rate_falls_in_the_second_half(epochs: int, factors: list[float]) -> None:
    gan = _cyclegan(epochs=epochs)
    assert [gan.learning_rate(e) / 2e-4 for e in range(1, epochs + 1)] == pytest.approx(factors)
    assert [_pix2pix(epochs=3).learning_rate(e) for e in (1, 2, 3)] == [2e-4] * 3


def test_the_falling_rate_reaches_the_optimisers() -> None:
    gan = _cyclegan(width=2, epochs=2)
    for epoch in Trainer(gan, *_pairs()[:2], seed=0).epochs():
        rates = {group["lr"] for optimiser in gan.optimisers.values() for group in optimiser.adam.param_groups}
        assert rates == {epoch.row["learning_rate"]} == {gan.learning_rate(epoch.row["epoch"])}


def test_the_published_rate_of_cyclegan() -> None:
    gan = _cyclegan(epochs=200)
    assert gan.learning_rate(100) == 2e-4
    assert gan.learning_rate(101) == pytest.approx(2e-4 * 100 / 101)
    assert gan.learning_rate(200) == pytest.approx(2e-4 / 101)


def test_the_image_pool_against_a_list() -> None:
    pool, random, by_hand = ImagePool(3, 4), torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    kept: list[float] = []
    old = 0
    for start in range(0, 40, 2):
        new = torch.stack([torch.full((1, 4, 4), float(start + i)) for i in range(2)])
        shown = pool(new, random)
        for i in range(2):
            value = expected = float(start + i)
            if len(kept) < 3:
                kept.append(value)
            elif torch.rand((), generator=by_hand) > 0.5:
                place = int(torch.randint(3, (), generator=by_hand))
                expected, kept[place] = kept[place], value
                old += 1
            assert (shown[i] == expected).all()
        assert pool.kept[: len(kept), 0, 0, 0].tolist() == kept
    assert 10 < old < 30


def test_the_pool_shows_copies_without_gradient_and_may_be_empty() -> None:
    new = torch.rand(2, 1, 4, 4, requires_grad=True)
    shown = ImagePool(0, 4)(new, torch.Generator())
    assert torch.equal(shown, new)
    assert not shown.requires_grad
    pool = ImagePool(5, 4)
    pool(new, torch.Generator()).zero_()
    assert torch.equal(pool.kept[:2], new)


def test_translate_is_the_same_in_any_batch_and_without_dropout() -> None:
    torch.manual_seed(0)
    network, (source, _, _) = UNet(64, width=4).train(), _pairs(5, size=64)
    alone = torch.cat([translate(network, one[None]) for one in source])
    torch.testing.assert_close(translate(network, source, batch_size=3), alone, atol=1e-5, rtol=0)
    assert torch.equal(translate(network, source), translate(network, source))
    assert network.training
    assert alone.dtype == torch.float32
    assert 0 <= alone.min() < alone.max() <= 1
    torch.testing.assert_close(alone, (network.eval()(2 * source - 1) + 1) / 2, atol=1e-5, rtol=0)
    assert translate(network, source[:0]).shape == (0, 1, 64, 64)
    half = translate(network, source, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, alone, atol=0.05, rtol=0)


def test_what_the_trainer_refuses() -> None:
    source, target, _ = _pairs(3)
    gan = _pix2pix(width=2)
    cases = [
        (source[:, 0], target, r"source slices are torch.float32 \(3, 32, 32\); expected floats \(S, 1, 32, 32\)"),
        (source, target.bool(), r"target slices are torch.bool \(3, 1, 32, 32\)"),
        (source[:0], target, "no source slices to train on"),
        (source, 2 * target, r"target slices hold values from 0 to 1\.\d+; expected \[0, 1\]"),
        (source, target * float("nan"), r"target slices hold values from nan to nan"),
        (source, target[:2], "3 source and 2 target slices; paired training needs one for one"),
    ]
    for a, b, message in cases:
        with pytest.raises(ValueError, match=message):
            Trainer(gan, a, b, seed=0)


def test_a_state_of_other_settings_is_refused_and_changes_nothing() -> None:
    source, target, _ = _pairs()
    other = Trainer(_pix2pix(width=3, epochs=1), source, target, seed=0)
    list(other.epochs())
    trainer = Trainer(_pix2pix(width=2, epochs=1), source, target, seed=0)
    before = trainer.state()
    for state in (other.state(), {}, {name: t for name, t in before.items() if name != "epoch"}):
        with pytest.raises(ValueError, match="the saved state is not of this network: .*train with the settings"):
            trainer.load_state(state)
    torch.testing.assert_close(trainer.state(), before, atol=0, rtol=0)


def test_a_loss_that_is_no_number_ends_it() -> None:
    source, target, _ = _pairs()
    gan = _pix2pix(width=2, epochs=2)
    nn.init.constant_(gan.networks["a_to_b"].up[0][1].bias, float("nan"))
    with pytest.raises(FloatingPointError, match=r"the \w+ loss of epoch 1 is nan; lower learning_rate \(0\.0002\)"):
        list(Trainer(gan, source, target, seed=0).epochs())
