"""cycleGAN: translation learnt in both directions from slices that are not paired.

Source: Zhu et al. 2017, "Unpaired image-to-image translation using cycle-consistent adversarial networks", sections 3
and 4, appendix 7.
"""

from dataclasses import dataclass

import torch
from monai.losses import PatchAdversarialLoss
from torch import Tensor, nn

from baselines.translation.networks import Discriminator, ResNetGenerator
from baselines.translation.optimiser import Optimiser, autocast


@dataclass(frozen=True)
class CycleGanSettings:
    """As published, for slices of 128 or 256 pixels.

    Attributes:
        epochs: passes over the larger side's slices; the rate falls linearly in the second half.
        batch_size: slices of each side a step.
        width: channels after the first layer of generators and discriminators.
        blocks: residual blocks of a generator; None takes the published number for the size.
        discriminator_layers: 3 judges patches of 70×70 pixels, 2 of 34×34.
        learning_rate: of Adam, in the first half.
        cycle_weight: of the cycle-consistency loss; slices in [-1, 1].
        identity_weight: of leaving a slice of the wanted modality as it is; half the cycle weight.
        pool: generated slices kept for the discriminators.
    """

    epochs: int = 200
    batch_size: int = 1
    width: int = 64
    blocks: int | None = None
    discriminator_layers: int = 3
    learning_rate: float = 2e-4
    cycle_weight: float = 10.0
    identity_weight: float = 5.0
    pool: int = 50


class ImagePool(nn.Module):
    """A buffer of generated slices for a discriminator. Half of the time a stored slice is returned and replaced.

    Until the buffer is full, new slices are stored and returned at once.

    Source:
        Shrivastava et al. 2017; Zhu et al. 2017, section 4.

    Args:
        capacity: slices kept; 0 always shows the new ones.
        size: P, pixels of a slice.
    """

    kept: Tensor
    filled: Tensor

    def __init__(self, capacity: int, size: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(capacity, 1, size, size))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def forward(self, slices: Tensor, random: torch.Generator) -> Tensor:
        """Return slices for the discriminator from new slices, (N, 1, P, P), float32; the same shape."""
        shown = slices.detach().clone()
        capacity = len(self.kept)
        for i in range(len(shown) if capacity else 0):
            filled = int(self.filled)
            if filled < capacity:
                self.kept[filled] = shown[i]
                self.filled += 1
            elif torch.rand((), generator=random) > 0.5:
                index = int(torch.randint(capacity, (), generator=random))
                old = self.kept[index].clone()
                self.kept[index] = shown[i]
                shown[i] = old
        return shown


class CycleGan:
    """Two generators, one a direction, and two discriminators; A is the source and B the target.

    `networks["a_to_b"]` and `networks["b_to_a"]` translate (`training.translate`).

    Deviation: no random crops or mirroring, for the reason given at `Pix2Pix`. The discriminators' losses are halved,
    as in the authors' code.

    Args:
        size: P, pixels of a slice.
        settings: of networks and training.
        seed: of the first weights.
        device: where to train.
        dtype: of the forward pass: float32, or bfloat16 or float16 where the device is fast with it.
    """

    paired = False

    def __init__(
        self,
        size: int,
        settings: CycleGanSettings,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.size, self.settings, self.device, self.dtype = size, settings, device, dtype
        self.epochs, self.batch_size = settings.epochs, settings.batch_size
        torch.manual_seed(seed)
        networks: dict[str, nn.Module] = {}
        for name in ("a_to_b", "b_to_a"):
            networks[name] = ResNetGenerator(size, width=settings.width, blocks=settings.blocks)
        for name in ("judge_a", "judge_b"):
            networks[name] = Discriminator(1, width=settings.width, layers=settings.discriminator_layers)
        for name in ("pool_a", "pool_b"):
            networks[name] = ImagePool(settings.pool, size)
        self.networks = nn.ModuleDict(networks).to(device)
        self.optimisers = {
            name: Optimiser(
                [self.networks[member] for member in members],
                learning_rate=settings.learning_rate,
                dtype=dtype,
                device=device,
            )
            for name, members in (("generators", ("a_to_b", "b_to_a")), ("discriminators", ("judge_a", "judge_b")))
        }
        self.adversarial = PatchAdversarialLoss(criterion="least_squares", no_activation_leastsq=True)

    def learning_rate(self, epoch: int) -> float:
        """Return the rate: constant, then in the second half falling to 0 one epoch after the last, as published."""
        constant = self.epochs // 2
        return self.settings.learning_rate * (1 - max(0, epoch - constant) / (self.epochs - constant + 1))

    def step(self, source: Tensor, target: Tensor, random: torch.Generator) -> dict[str, Tensor]:
        """Update the generators, then the discriminators."""
        made_b, made_a = self._run("a_to_b", source), self._run("b_to_a", target)
        cycle = _l1(self._run("b_to_a", made_b), source) + _l1(self._run("a_to_b", made_a), target)
        self._judges_learn(False)
        fooled = self._fooled("judge_b", made_b) + self._fooled("judge_a", made_a)
        self._judges_learn(True)
        loss = fooled + self.settings.cycle_weight * cycle
        identity = torch.zeros((), device=self.device)
        if self.settings.identity_weight:
            identity = _l1(self._run("b_to_a", source), source) + _l1(self._run("a_to_b", target), target)
            loss = loss + self.settings.identity_weight * identity
        self.optimisers["generators"].step(loss)
        shown_b = self.networks["pool_b"](made_b, random)
        shown_a = self.networks["pool_a"](made_a, random)
        judged = self._judged("judge_b", target, shown_b) + self._judged("judge_a", source, shown_a)
        self.optimisers["discriminators"].step(judged)
        return {"adversarial": fooled, "cycle": cycle, "identity": identity, "discriminator": judged}

    def look(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Return A, A as B, A reconstructed, B, B as A and B reconstructed."""
        made_b, made_a = self._run("a_to_b", source), self._run("b_to_a", target)
        return [source, made_b, self._run("b_to_a", made_b), target, made_a, self._run("a_to_b", made_a)]

    def _run(self, name: str, slices: Tensor) -> Tensor:
        """Return the output of a network, float32."""
        with autocast(self.device, self.dtype):
            return self.networks[name](slices).float()

    def _fooled(self, judge: str, made: Tensor) -> Tensor:
        return self.adversarial(self._run(judge, made), True, False)

    def _judged(self, judge: str, real: Tensor, made: Tensor) -> Tensor:
        loss = self.adversarial(self._run(judge, real), True, True)
        return (loss + self.adversarial(self._run(judge, made), False, True)) / 2

    def _judges_learn(self, learn: bool) -> None:
        for name in ("judge_a", "judge_b"):
            self.networks[name].requires_grad_(learn)


def _l1(made: Tensor, wanted: Tensor) -> Tensor:
    return (made - wanted).abs().mean()
