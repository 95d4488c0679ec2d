"""Training of the diffusion engine, and going on with it where it was stopped.

In every step each patient has another random part of the blocks given, from none to all but one; the others are noisy
by one random time, and the loss is theirs alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from models.joint.blocks import Blocks, FloatArray
from models.joint.diffusion import Diffusion, DiffusionConfig, Labels, schedule

STEP = "step"  # of the state
SMALLEST_SPREAD = 1e-6
OF_DROPOUT = 2**40  # from the seed of a step to that of what dropout hides in it
Keep = Callable[[Mapping[str, Tensor]], None]


class OtherNetworkError(ValueError):
    """A state in training that this network cannot go on from."""


def fit_diffusion(
    rows: FloatArray,
    labels: Labels,
    blocks: Blocks,
    classes: int,
    config: DiffusionConfig,
    *,
    device: torch.device | str = "cpu",
    state: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Diffusion:
    """Train on the scores of training patients, and of nobody else.

    Training goes on where it was stopped, to the last bit on one machine: every step draws from its own number.

    Args:
        rows: (n, d), NaN where a block is missing; each patient with a block or a class.
        labels: classes, (n,), in [0, K).
        blocks: layout of the scores.
        classes: K.
        config: size and training.
        device: to train on.
        state: as `keep` was given it, to go on from; of the same rows and config.
        keep: called with the state every `keep_every` steps and at the end.
        advance: called after each step.

    Returns:
        The engine with averaged weights, in eval mode, on the device.

    Raises:
        ValueError: no patient, part of a block, or an infinite score.
        OtherNetworkError: the state is of another network.
        FloatingPointError: the loss is not finite.
    """
    if len(rows) == 0 or config.steps < 1:
        raise ValueError(f"{len(rows)} patients and {config.steps} steps; expected one or more of each")
    model = Diffusion(blocks, classes, config)
    averaged = Diffusion(blocks, classes, config)
    for each in (model, averaged):
        _fit_spread(each, rows, labels)
        each.to(device)
    values, there = (each.to(device) for each in model.whitened(rows, labels))
    optimiser = torch.optim.AdamW(model.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    done = 0 if state is None else _restore(model, averaged, optimiser, state)
    for step in range(done, config.steps):
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        picked = torch.randint(len(values), (config.batch,), generator=random).to(device)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config.steps)
        with _own_chance(device, OF_DROPOUT + config.seed * 1_000_003 + step):
            loss = _loss(model, values[picked], there[picked], random)
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss of step {step + 1} is not finite; try a lower learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimiser.step()
        _average(averaged.network, model.network, min(config.average, (1 + step) / (10 + step)))
        advance()
        if keep is not None and ((step + 1) % config.keep_every == 0 or step + 1 == config.steps):
            keep(_state(model, averaged, optimiser, step + 1))
    return averaged.eval()


@contextmanager
def _own_chance(device: torch.device | str, seed: int) -> Iterator[None]:
    """Let what dropout hides hang on a seed, and leave the chance of everything else as it was."""
    devices = [device] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def given_blocks(there: Tensor, random: torch.Generator) -> Tensor:
    """Choose which blocks of each row are given: a number from 0 to one less than it has, then as many at random.

    Args:
        there: (B, blocks), bool.
        random: source of chance, on the CPU.

    Returns:
        (B, blocks), bool, on the device of `there`.
    """
    has = there.sum(1).cpu()
    number = (torch.rand(len(there), generator=random) * has).long()
    order = torch.rand(there.shape, generator=random).masked_fill(~there.cpu(), 2.0).argsort(1).argsort(1)
    return (order < number[:, None]).to(there.device)


def _loss(model: Diffusion, values: Tensor, there: Tensor, random: torch.Generator) -> Tensor:
    """Return the squared error of v over the hidden blocks of patients, each patient counting once."""
    given = given_blocks(there, random)
    hidden = there & ~given
    time = torch.rand(len(values), 1, generator=random).to(values)
    times = torch.where(given, 0.0, torch.where(there, time, 1.0))
    noise = torch.randn(values.shape, generator=random).to(values)
    alpha, sigma = schedule(times[:, model.owner])
    v = model.network(alpha * values + sigma * noise, times)
    counted = hidden[:, model.owner]
    error = (v - (alpha * noise - sigma * values)).square() * counted
    loss: Tensor = (error.sum(1) / counted.sum(1).clamp_min(1)).mean()
    return loss


@torch.no_grad()
def held_out_loss(model: Diffusion, rows: FloatArray, labels: Labels, *, rounds: int = 4, seed: int = 0) -> float:
    """Return the loss of training over patients that the model was not trained on.

    Args:
        model: in eval mode.
        rows: scores, (n, d), NaN where a block is missing.
        labels: classes, (n,).
        rounds: of choosing times, noise and what is given, for every patient.
        seed: of these; with the same one two models are compared on the same noise.
    """
    values, there = (each.to(model.centre.device) for each in model.whitened(rows, labels))
    random = torch.Generator().manual_seed(seed)
    return float(np.mean([float(_loss(model, values, there, random)) for _ in range(rounds)]))


def _rate(step: int, steps: int) -> float:
    """Return the share of the highest learning rate."""
    rise = min(1.0, (step + 1) / max(1, steps // 100))
    return float(rise * (1 + np.cos(np.pi * step / steps)) / 2)


@torch.no_grad()
def _fit_spread(model: Diffusion, rows: FloatArray, labels: Labels) -> None:
    """Learn centre and spread of every number from the rows that have it."""
    values, there = model.whitened(rows, labels)
    known = there[:, model.owner].double()
    count = known.sum(0).clamp_min(1)
    centre = (values.double() * known).sum(0) / count
    spread = (((values.double() - centre) * known).square().sum(0) / count).sqrt()
    model.centre.copy_(centre)
    model.spread.copy_(torch.where(spread > SMALLEST_SPREAD, spread, 1.0))


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, share: float) -> None:
    for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, 1 - share)


def _moments(model: Diffusion, optimiser: torch.optim.Adam) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.network.named_parameters():
        yield f"adam.{name}", parameter


def _state(model: Diffusion, averaged: Diffusion, optimiser: torch.optim.Adam, step: int) -> dict[str, Tensor]:
    """Return everything that the next step depends on."""
    state: dict[str, Tensor] = {}
    for prefix, each in (("model.", model), ("averaged.", averaged)):
        state |= {prefix + name: value.detach().cpu().clone() for name, value in each.state_dict().items()}
    for name, parameter in _moments(model, optimiser):
        for key, value in optimiser.state[parameter].items():
            state[f"{name}.{key}"] = value.detach().cpu().clone()
    return state | {STEP: torch.tensor(step)}


def _restore(model: Diffusion, averaged: Diffusion, optimiser: torch.optim.Adam, state: Mapping[str, Tensor]) -> int:
    """Put a state back; return the steps that were done.

    Raises:
        OtherNetworkError: it is of another network.
    """
    try:
        for prefix, each in (("model.", model), ("averaged.", averaged)):
            each.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        for name, parameter in _moments(model, optimiser):
            kept = {key: state[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter) for key, value in kept.items()
            }
        return int(state[STEP])
    except (RuntimeError, KeyError) as error:
        raise OtherNetworkError(f"the state is of another network: {error}") from error
