"""The training loop of both GANs: it can be interrupted after any epoch and continues to the same results.

The randomness of an epoch (order of slices, dropout, image pool) comes from the seed and the epoch's number alone, so
that only weights, moments, the image pool and the epoch count have to be kept.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from baselines.translation.optimiser import Optimiser, autocast

SHOWN = 4  # slices in the picture of an epoch


class Gan(Protocol):
    """A model that the loop trains: `Pix2Pix` or `CycleGan`. Slices are (N, 1, P, P), float32 in [-1, 1] here.

    Attributes:
        networks: everything with weights or other tensors that change in training.
        optimisers: by name.
        size: P, pixels of a slice.
        device: where the networks are.
        epochs: number of epochs.
        batch_size: slices of each side a step.
        paired: whether source and target slices belong together one by one.
    """

    networks: nn.ModuleDict
    optimisers: dict[str, Optimiser]
    size: int
    device: torch.device
    epochs: int
    batch_size: int
    paired: bool

    def learning_rate(self, epoch: int) -> float:
        """Return the rate of an epoch, counted from 1."""
        ...

    def step(self, source: Tensor, target: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Take one step of every optimiser; return named scalar losses from before the step."""
        ...

    def look(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Return the columns of an epoch's picture, each (N, 1, P, P)."""
        ...


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch.

    Attributes:
        row: epoch (from 1), learning_rate and mean losses over its slices.
        picture: the same few training slices each time, (SHOWN·P, columns·P), float32 in [0, 1], on the CPU.
    """

    row: dict[str, float | int]
    picture: Tensor


class Trainer:
    """Trains a GAN on slices, epoch by epoch.

    Args:
        gan: what to train.
        source: slices of the modality translated from, (S, 1, P, P), a float dtype, in [0, 1], 0 outside the brain;
            they stay where they are, and only a batch at a time goes to the device.
        target: slices of the other modality, (T, 1, P, P); paired training has T = S.
        seed: of every epoch's randomness.

    Raises:
        ValueError: the slices are not these.
    """

    def __init__(self, gan: Gan, source: Tensor, target: Tensor, *, seed: int) -> None:
        for name, slices in (("source", source), ("target", target)):
            _check(name, slices, gan.size)
        if gan.paired and len(source) != len(target):
            raise ValueError(f"{len(source)} source and {len(target)} target slices; paired training needs one for one")
        self.gan, self.source, self.target, self.seed = gan, source, target, seed
        self.epoch = 0

    def epochs(self) -> Iterator[Epoch]:
        """Train from the epoch reached to the last one; save `state` between two of them.

        Raises:
            FloatingPointError: a loss is no longer a finite number.
        """
        while self.epoch < self.gan.epochs:
            row = self._train(self.epoch + 1)
            self.epoch += 1
            yield Epoch(row, self._picture())

    def state(self) -> dict[str, Tensor]:
        """Return everything needed to resume training, as contiguous copies on the CPU that share no memory.

        `safetensors.torch.save_file` takes it as it is.
        """
        state = {"epoch": torch.tensor(self.epoch)}
        for name, tensor in self.gan.networks.state_dict().items():
            state[f"networks.{name}"] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, optimiser in self.gan.optimisers.items():
            state |= {f"optimisers.{name}.{key}": tensor for key, tensor in optimiser.state().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Resume from a saved state.

        Raises:
            ValueError: it is of networks with other settings; nothing is changed.
        """
        wanted = {f"networks.{name}": tensor.shape for name, tensor in self.gan.networks.state_dict().items()}
        saved = {name: tensor.shape for name, tensor in state.items() if name.startswith("networks.")}
        if saved != wanted or "epoch" not in state:
            differing = sorted(name for name in wanted | saved if wanted.get(name) != saved.get(name)) or ["epoch"]
            raise ValueError(
                f"the saved state is not of this network: {len(differing)} tensors differ, {differing[0]} among them; "
                "train with the settings it was saved under, or start anew"
            )
        self.gan.networks.load_state_dict({name.removeprefix("networks."): state[name] for name in saved})
        for name, optimiser in self.gan.optimisers.items():
            start = f"optimisers.{name}."
            optimiser.load_state({key.removeprefix(start): state[key] for key in state if key.startswith(start)})
        self.epoch = int(state["epoch"])

    def _train(self, epoch: int) -> dict[str, float | int]:
        rate = self.gan.learning_rate(epoch)
        for optimiser in self.gan.optimisers.values():
            optimiser.set_learning_rate(rate)
        self.gan.networks.train()
        sums: dict[str, float | Tensor] = {}
        seed = (self.seed * 100_003 + epoch) % 2**63
        random = torch.Generator().manual_seed(seed)
        cuda = [self.gan.device] if self.gan.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)  # of dropout
            for source, target in self._batches(random):
                for name, loss in self.gan.step(source, target, random).items():
                    sums[name] = sums.get(name, 0) + loss.detach() * len(source)  # read at the end: reading waits
        losses = {name: float(total) / self._count for name, total in sums.items()}
        for name, value in losses.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"the {name} loss of epoch {epoch} is {value}; lower learning_rate ({rate:g})")
        return {"epoch": epoch, "learning_rate": rate, **losses}

    @property
    def _count(self) -> int:
        return max(len(self.source), len(self.target))

    def _batches(self, random: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every slice once, in a new order; unpaired, the smaller side repeats until the larger ends."""
        first = torch.randperm(len(self.source), generator=random)
        second = first if self.gan.paired else torch.randperm(len(self.target), generator=random)
        for batch in torch.arange(self._count).split(self.gan.batch_size):
            yield (
                self._ready(self.source[first[batch % len(first)]]),
                self._ready(self.target[second[batch % len(second)]]),
            )

    def _ready(self, slices: Tensor) -> Tensor:
        return to_signed(slices.to(self.gan.device, torch.float32))

    @torch.no_grad()
    def _picture(self) -> Tensor:
        self.gan.networks.eval()
        shown = [
            self._ready(slices[torch.linspace(0, len(slices) - 1, SHOWN).round().long()])
            for slices in (self.source, self.target)
        ]
        columns = self.gan.look(*shown)
        side_by_side = torch.cat([from_signed(column.float()) for column in columns], dim=3)  # (SHOWN, 1, P, columns·P)
        return side_by_side.squeeze(1).flatten(0, 1).cpu()


@torch.inference_mode()
def translate(
    generator: nn.Module, slices: Tensor, *, batch_size: int = 16, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Translate slices to the other modality.

    The generator also produces background; multiply by the source's brain mask to have it at 0.

    Args:
        generator: `UNet` or `ResNetGenerator`; it runs on the device where it is, without dropout.
        slices: (S, 1, P, P), in [0, 1].
        batch_size: slices a pass; no slice depends on the others.
        dtype: of the pass (autocast).

    Returns:
        (S, 1, P, P), float32 in [0, 1], on the CPU.
    """
    device = next(generator.parameters()).device
    before = generator.training
    generator.eval()
    made = [slices.new_zeros(0, *slices.shape[1:], dtype=torch.float32, device="cpu")]
    with autocast(device, dtype):
        for batch in slices.split(batch_size) if len(slices) else ():
            made.append(from_signed(generator(to_signed(batch.to(device, torch.float32))).float()).cpu())
    generator.train(before)
    return torch.cat(made)


def to_signed(slices: Tensor) -> Tensor:
    """Scale [0, 1] to the networks' [-1, 1]."""
    return 2 * slices - 1


def from_signed(slices: Tensor) -> Tensor:
    """Scale the networks' [-1, 1] to [0, 1]."""
    return (slices + 1) / 2


def _check(name: str, slices: Tensor, size: int) -> None:
    if slices.ndim != 4 or slices.shape[1:] != (1, size, size) or not slices.is_floating_point():
        raise ValueError(
            f"{name} slices are {slices.dtype} {tuple(slices.shape)}; expected floats (S, 1, {size}, {size})"
        )
    if len(slices) == 0:
        raise ValueError(f"no {name} slices to train on")
    low, high = float(slices.min()), float(slices.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{name} slices hold values from {low:g} to {high:g}; expected [0, 1]")
