"""Masked multi-time diffusion of all blocks of scores: what is missing is drawn from noise, given what is there.

Each block has a time of its own: 0 where it is given, 1 where a training patient lacks it (pure noise, which says
nothing), one time for all that is to be drawn. In training a random part of a patient's blocks is given and the loss
is that of the others; so one network draws any blocks from any others. The class is a block too, its one-hot code:
known in training, given or drawn afterwards. Unlike the linear engine it can learn links that are no straight lines,
and needs thousands of patients for it.

With the cosine schedule, x_t = cos(πt/2) x + sin(πt/2) ε, and the network's target is v = cos(πt/2) ε − sin(πt/2) x.

Source: Bounoua, Franzese and Michiardi 2024, "Multi-modal latent diffusion" (masked multi-time; theirs draws with an
SDE and predicts the score); Salimans and Ho 2022, appendix D (v, and steps without new noise, after Song et al. 2021);
Nichol and Dhariwal 2021 (cosine). The network is this project's: residual layers in which each block has weights
of its own, since a dense layer over all blocks learnt far less at equal cost (decision 24), scaled and shifted by the
times.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.joint.blocks import Blocks, FloatArray

FREQUENCIES = 16  # of a time
ROWS_AT_ONCE = 8192  # drawn together
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class DiffusionConfig:
    """Size, training and drawing.

    Attributes:
        width: of the network's layers, for each block.
        layers: residual ones.
        steps: of training, each of a batch.
        batch: patients a step.
        learning_rate: of Adam at its highest; it rises over the first hundredth of the steps, then falls to 0 by a
            cosine.
        dropout: share of a layer's inner numbers that a training step hides; nothing is hidden in drawing.
        weight_decay: of AdamW; learning rate times this is the share of every weight that a step takes away.
        average: share of the averaged weights (EMA) that a step leaves; drawing uses these.
        draw_steps: from noise to scores.
        keep_every: steps after which the state is kept.
        seed: of weights and steps.
    """

    width: int = 128
    layers: int = 3
    steps: int = 20_000
    batch: int = 256
    learning_rate: float = 1e-3
    dropout: float = 0.0
    weight_decay: float = 0.0
    average: float = 0.999
    draw_steps: int = 50
    keep_every: int = 1000
    seed: int = 0


class Apart(nn.Module):
    """A linear layer for each block, with weights of its own.

    Args:
        blocks: how many.
        told: numbers of a block that come in.
        said: that go out.
    """

    def __init__(self, blocks: int, told: int, said: int) -> None:
        super().__init__()
        edge = told**-0.5  # as nn.Linear
        self.weight = nn.Parameter(torch.empty(blocks, told, said).uniform_(-edge, edge))
        self.bias = nn.Parameter(torch.empty(blocks, 1, said).uniform_(-edge, edge))

    def forward(self, x: Tensor) -> Tensor:
        """Return (blocks, B, said) of x (blocks, B, told)."""
        return torch.baddbmm(self.bias, x, self.weight)


class Layer(nn.Module):
    """A residual layer: each block by weights of its own, with what all of them say together added to each.

    What comes in is normalised, then scaled and shifted by what the times say.
    """

    def __init__(self, blocks: int, width: int, dropout: float) -> None:
        super().__init__()
        self.blocks, self.width = blocks, width
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.told = nn.Linear(width, 2 * blocks * width)
        self.together = nn.Sequential(nn.Linear(blocks * width, width), nn.SiLU(), nn.Linear(width, blocks * width))
        self.apart = Apart(blocks, width, width)
        self.back = nn.Sequential(nn.SiLU(), nn.Dropout(dropout), Apart(blocks, width, width))
        _zero(self.back[2])

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return (blocks, B, width) of x (blocks, B, width) and told (B, width)."""
        scale, shift = self._by_block(self.told(told)).chunk(2, dim=2)
        seen = self.norm(x) * (1 + scale) + shift
        shared = self._by_block(self.together(seen.transpose(0, 1).flatten(1)))
        out: Tensor = x + self.back(self.apart(seen) + shared)
        return out

    def _by_block(self, rows: Tensor) -> Tensor:
        return rows.unflatten(1, (self.blocks, -1)).transpose(0, 1)


class Network(nn.Module):
    """From noisy blocks and the time of each to v.

    Args:
        blocks: of the numbers, classes included.
        config: sizes.
    """

    def __init__(self, blocks: Blocks, config: DiffusionConfig) -> None:
        super().__init__()
        self.sizes, count, width = list(blocks.sizes), len(blocks.names), config.width
        self.first = nn.ModuleList(nn.Linear(size, width) for size in self.sizes)
        self.times = nn.Sequential(
            nn.Linear(count * (2 * FREQUENCIES + 1), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.layers = nn.ModuleList(Layer(count, width, config.dropout) for _ in range(config.layers))
        self.before_last = nn.Sequential(nn.LayerNorm(width), nn.SiLU())
        self.last = nn.ModuleList(nn.Linear(width, size) for size in self.sizes)
        _zero(self.last)

    def forward(self, noisy: Tensor, times: Tensor) -> Tensor:
        """Return v (B, d) of noisy (B, d) and times (B, blocks) in [0, 1]."""
        turns = times[:, :, None] * torch.pi * torch.arange(1, FREQUENCIES + 1, device=times.device) / 2
        told = torch.cat([(times == 0).to(times)[:, :, None], turns.sin(), turns.cos()], dim=2).flatten(1)
        told, parts = self.times(told), noisy.split(self.sizes, dim=1)
        x = torch.stack([first(part) for first, part in zip(self.first, parts, strict=True)])  # (blocks, B, width)
        for layer in self.layers:
            x = layer(x, told)
        out = self.before_last(x)
        return torch.cat([last(part) for last, part in zip(self.last, out, strict=True)], dim=1)


class Diffusion(nn.Module):
    """The fitted engine.

    Args:
        blocks: layout of the scores.
        classes: K; a block of K numbers more, if there is more than one.
        config: sizes and drawing.
    """

    centre: Tensor
    spread: Tensor
    owner: Tensor

    def __init__(self, blocks: Blocks, classes: int, config: DiffusionConfig) -> None:
        super().__init__()
        self.blocks, self.classes, self.config = blocks, classes, config
        extra = ((_class_block(blocks), classes),) if classes > 1 else ()
        self.inner = Blocks(
            (*blocks.names, *(name for name, _ in extra)), (*blocks.sizes, *(size for _, size in extra))
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = Network(self.inner, config)
        self.register_buffer("centre", torch.zeros(self.inner.width))
        self.register_buffer("spread", torch.ones(self.inner.width))
        self.register_buffer("owner", torch.from_numpy(self.inner.owner), persistent=False)

    def whitened(self, rows: FloatArray, labels: Labels | None) -> tuple[Tensor, Tensor]:
        """Return numbers of unit variance (n, d'), 0 where missing, and which blocks are there (n, blocks), bool.

        Args:
            rows: scores, (n, d), NaN where a block is missing.
            labels: classes (n,) in [0, K), or None where they are not known.

        Raises:
            ValueError: as `Blocks.patterns`, or a label that is no class.
        """
        there = np.array(self.blocks.patterns(rows), dtype=bool).reshape(len(rows), len(self.blocks.names))
        numbers = np.nan_to_num(rows, nan=0.0)
        if self.classes > 1:
            codes = np.zeros((len(rows), self.classes))
            if labels is not None:
                if len(labels) != len(rows) or len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
                    raise ValueError(
                        f"labels {np.unique(labels)} of {len(rows)} rows; expected 0 to {self.classes - 1}"
                    )
                codes[np.arange(len(rows)), labels] = 1
            numbers = np.concatenate([numbers, codes], axis=1)
            there = np.concatenate([there, np.full((len(rows), 1), labels is not None)], axis=1)
        found = torch.from_numpy(there)
        known = found[:, self.owner.cpu()]
        values = (torch.from_numpy(numbers) - self.centre.cpu().double()) / self.spread.cpu().double()
        return torch.where(known, values, 0.0).float(), found

    @torch.no_grad()
    def draw(
        self, rows: FloatArray, count: int, random: np.random.Generator, labels: Labels | None = None
    ) -> tuple[FloatArray, Labels]:
        """Draw the missing scores of patients, and their classes; as `models.joint.posterior.draw`.

        Args:
            rows: (n, d), NaN where a block is missing.
            count: of draws, S.
            random: source of chance.
            labels: the class of each patient, if it may be used; otherwise drawn with the scores.

        Returns:
            Scores (S, n, d), observed ones as they are, to the last bit, and classes (S, n).
        """
        given, there = self.whitened(rows, labels)
        device, n = self.centre.device, len(rows)
        drawn = torch.empty(count * n, self.inner.width)
        noise = torch.Generator().manual_seed(int(random.integers(2**62)))
        for start in range(0, count * n, ROWS_AT_ONCE):
            which = torch.arange(start, min(start + ROWS_AT_ONCE, count * n))
            first = torch.randn(len(which), self.inner.width, generator=noise)
            made = self._denoise(given[which % n].to(device), there[which % n].to(device), first.to(device))
            drawn[which] = made.cpu()
        numbers = (drawn.double() * self.spread.cpu().double() + self.centre.cpu().double()).numpy()
        numbers = numbers.reshape(count, n, -1)
        scores = np.where(np.isnan(rows), numbers[:, :, : self.blocks.width], rows)
        if labels is not None or self.classes == 1:
            return scores, np.repeat((np.zeros(n, dtype=np.int64) if labels is None else labels)[None], count, axis=0)
        return scores, numbers[:, :, self.blocks.width :].argmax(axis=2)

    def _denoise(self, given: Tensor, there: Tensor, x: Tensor) -> Tensor:
        """Take noise x (B, d') to scores, with the given blocks as they are."""
        known = there[:, self.owner]
        edges = torch.linspace(1, 0, self.config.draw_steps + 1).tolist()
        for now, after in zip(edges[:-1], edges[1:], strict=True):
            times = torch.where(there, 0.0, now)
            x = torch.where(known, given, x)
            v = self.network(x, times)
            (a, s), (a_next, s_next) = (schedule(torch.tensor(t)) for t in (now, after))
            clean, noise = a * x - s * v, s * x + a * v
            x = a_next * clean + s_next * noise
        return torch.where(known, given, x)


def schedule(times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shares of scores and of noise at times in [0, 1]."""
    angle = times * (torch.pi / 2)
    noise = torch.where(times == 0, 0.0, angle.sin())
    return torch.where(times == 1, 0.0, angle.cos()), noise


def _class_block(blocks: Blocks) -> str:
    """Return a name for the block of the class that no other block has."""
    name = "class"
    while name in blocks.names:
        name += "_"
    return name


def _zero(layer: nn.Module) -> None:
    """Let a layer begin by saying nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
