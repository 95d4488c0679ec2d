"""Images by two networks: an autoencoder to a small latent image, and a rectified flow that draws latent images.

The flow is told the scores of the patient's feature map and the class, so that image, features and label belong
together. It takes thousands of images and a GPU to be worth it; on fewer the principal components of `pca` are as good
and take seconds. Training goes on where it was stopped, to the last bit on one machine: every step draws its chances
from its own number.

Source: Kingma and Welling 2014 (autoencoder); Rombach et al. 2022, section 3 (flow in the latent space); Liu et al.
2023, "Flow Straight and Fast", equation 1. Networks are MONAI's, without attention, and without the perceptual and
adversarial losses of Rombach et al., which need networks of their own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from monai.networks.nets import AutoencoderKL
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock, get_timestep_embedding
from monai.networks.schedulers import RFlowScheduler
from torch import Tensor, nn

TIMES = 1000  # of the flow, as MONAI numbers them
STEP, LOSSES = "step", "losses"  # of the state
Keep = Callable[[Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class LatentConfig:
    """Sizes and training of both networks.

    Attributes:
        channels: of the autoencoder's levels; each level but the first halves the image.
        latent: channels of a latent image.
        flow: channels of the flow's network.
        autoencoder_steps: of training, each of a batch.
        flow_steps: the same of the flow.
        batch: images a step.
        learning_rate: of Adam.
        kl_weight: of the autoencoder's divergence, beside the mean absolute error.
        draw_steps: from noise to a latent image.
        keep_every: steps after which the state is kept.
        seed: of weights and steps.
    """

    channels: tuple[int, ...] = (32, 64, 64)
    latent: int = 4
    flow: int = 64
    autoencoder_steps: int = 2000
    flow_steps: int = 4000
    batch: int = 8
    learning_rate: float = 1e-4
    kl_weight: float = 1e-6
    draw_steps: int = 30
    keep_every: int = 500
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of training, of both networks."""
        return self.autoencoder_steps + self.flow_steps

    @property
    def multiple(self) -> int:
        """What the sides of an image are padded to a multiple of: the flow halves a latent image once more."""
        return int(2 ** len(self.channels))


class Velocity(nn.Module):
    """From a noisy latent image, a time and a condition to the direction of the latent image without noise.

    Args:
        dimensions: 2 or 3.
        latent: channels.
        width: of the first level; the second has twice as many.
        condition: numbers that the patient is told by.
    """

    def __init__(self, *, dimensions: int, latent: int, width: int, condition: int) -> None:
        super().__init__()
        told, conv = 4 * width, nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        self.condition = nn.Sequential(nn.Linear(condition, told), nn.SiLU(), nn.Linear(told, told))

        def block(inside: int, out: int, *, up: bool = False, down: bool = False) -> nn.Module:
            groups = math.gcd(8, inside, out)
            return DiffusionUNetResnetBlock(
                dimensions, inside, told, out_channels=out, up=up, down=down, norm_num_groups=groups
            )

        self.first = conv(latent, width, 3, padding=1)
        self.above = block(width, width)
        self.down = block(width, 2 * width, down=True)
        self.middle = block(2 * width, 2 * width)
        self.up = block(2 * width, width, up=True)
        self.join = block(2 * width, width)
        final = conv(width, latent, 3, padding=1)
        for parameter in final.parameters():
            nn.init.zeros_(parameter)
        self.last = nn.Sequential(nn.GroupNorm(math.gcd(8, width), width), nn.SiLU(), final)

    def forward(self, noisy: Tensor, times: Tensor, condition: Tensor) -> Tensor:
        """Return the velocity, of the shape of `noisy` (B, latent, …); times (B,) in [0, 1000], condition (B, c)."""
        told = self.time(get_timestep_embedding(times, self.width)) + self.condition(condition)
        above = self.above(self.first(noisy), told)
        x = self.up(self.middle(self.down(above, told), told), told)
        velocity: Tensor = self.last(self.join(torch.cat([x, above], dim=1), told))
        return velocity


class LatentModel(nn.Module):
    """Both networks.

    Args:
        shape: (channels, …) of an image, sides multiples of `LatentConfig.multiple`.
        condition: numbers that the patient is told by.
        config: sizes.

    Attributes:
        losses: of training: the number of steps done, and the mean loss of the steps since the row before.
    """

    spread: Tensor
    losses: tuple[tuple[int, float], ...]

    def __init__(self, shape: tuple[int, ...], condition: int, config: LatentConfig) -> None:
        super().__init__()
        self.shape, self.config, self.losses = shape, config, ()
        dimensions = len(shape) - 1
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.autoencoder = AutoencoderKL(
                spatial_dims=dimensions,
                in_channels=shape[0],
                out_channels=shape[0],
                num_res_blocks=1,
                channels=config.channels,
                attention_levels=(False,) * len(config.channels),
                latent_channels=config.latent,
                norm_num_groups=math.gcd(8, *config.channels),
                with_encoder_nonlocal_attn=False,
                with_decoder_nonlocal_attn=False,
            )
            self.velocity = Velocity(
                dimensions=dimensions, latent=config.latent, width=config.flow, condition=condition
            )
        self.register_buffer("spread", torch.ones(()))

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """(latent, …) of a latent image."""
        return self.config.latent, *(side // 2 ** (len(self.config.channels) - 1) for side in self.shape[1:])

    @torch.no_grad()
    def draw(self, condition: Tensor, *, seed: int) -> Tensor:
        """Draw an image for each condition (B, c): (B, channels, …), float32, on the device of the networks."""
        scheduler = RFlowScheduler(num_train_timesteps=TIMES)
        scheduler.set_timesteps(self.config.draw_steps)
        device = self.spread.device
        noise = torch.randn(len(condition), *self.latent_shape, generator=torch.Generator().manual_seed(seed))
        x = noise.to(device)
        times = scheduler.timesteps.tolist()
        for now, after in zip(times, [*times[1:], 0], strict=True):
            velocity = self.velocity(x, torch.full((len(x),), float(now), device=device), condition.to(device))
            x, _ = scheduler.step(velocity, now, x, after)
        image: Tensor = self.autoencoder.decode(x * self.spread)
        return image.float()


def fit_latent(
    images: Tensor,
    condition: Tensor,
    config: LatentConfig,
    *,
    device: torch.device,
    state: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
    advance: Callable[[], None] = lambda: None,
) -> LatentModel:
    """Train the autoencoder on images, then the flow on their latent images.

    Args:
        images: (n, channels, …), float32 in [0, 1], sides multiples of `LatentConfig.multiple`.
        condition: of each, (n, c), float32.
        config: sizes and training.
        device: to train on; images wait in memory.
        state: as `keep` was given it, to go on from; of the same images and config.
        keep: called with the state every `keep_every` steps and at the end.
        advance: called after each step.

    Returns:
        The networks in eval mode, on the device.

    Raises:
        ValueError: images of other sides, or a state of other networks.
        FloatingPointError: the loss is not finite.
    """
    if any(side % config.multiple for side in images.shape[2:]) or len(images) != len(condition):
        raise ValueError(
            f"images {tuple(images.shape)} for {len(condition)} conditions; sides have to be multiples of "
            f"{config.multiple}"
        )
    model = LatentModel(tuple(images.shape[1:]), condition.shape[1], config).to(device)
    done = 0
    optimisers = [
        torch.optim.Adam(part.parameters(), lr=config.learning_rate) for part in (model.autoencoder, model.velocity)
    ]
    if state is not None:
        done = _restore(model, optimisers, state)
    model.train()
    since: list[float] = []
    for step in range(done, config.steps):
        random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        rows = torch.randint(len(images), (min(config.batch, len(images)),), generator=random)
        batch = images[rows].to(device)
        first = step < config.autoencoder_steps
        if first:
            loss = _autoencoder_loss(model, batch, random)
        else:
            if step == config.autoencoder_steps:
                model.spread.copy_(_spread(model, images))
            loss = _flow_loss(model, batch, condition[rows].to(device), random)
        if not bool(loss.isfinite()):
            raise FloatingPointError(f"the loss of step {step + 1} is not finite; try a lower learning rate")
        optimiser = optimisers[0 if first else 1]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        advance()
        since.append(float(loss.detach()))
        kept = (step + 1) % config.keep_every == 0 or step + 1 == config.steps
        if kept or step + 1 == config.autoencoder_steps:
            model.losses += ((step + 1, sum(since) / len(since)),)
            since = []
        if keep is not None and kept:
            keep(_state(model, optimisers, step + 1))
    return model.eval()


def padded(images: Tensor, multiple: int) -> Tensor:
    """Pad the sides of images (n, channels, …) with zeros at their ends to multiples."""
    pads = [(0, -side % multiple) for side in reversed(images.shape[2:])]
    return nn.functional.pad(images, [each for pad in pads for each in pad])


def _autoencoder_loss(model: LatentModel, batch: Tensor, random: torch.Generator) -> Tensor:
    mean, sd = model.autoencoder.encode(batch)
    drawn = mean + sd * torch.randn(mean.shape, generator=random).to(mean)
    error = (model.autoencoder.decode(drawn) - batch).abs().mean()
    divergence = 0.5 * (mean**2 + sd**2 - 2 * sd.clamp_min(1e-12).log() - 1).flatten(1).sum(1).mean()
    loss: Tensor = error + model.config.kl_weight * divergence
    return loss


def _flow_loss(model: LatentModel, batch: Tensor, condition: Tensor, random: torch.Generator) -> Tensor:
    with torch.no_grad():
        latent = model.autoencoder.encode(batch)[0] / model.spread
    noise = torch.randn(latent.shape, generator=random).to(latent)
    times = TIMES * torch.rand(len(latent), generator=random).to(latent)
    noisy = RFlowScheduler(num_train_timesteps=TIMES).add_noise(latent, noise, times)
    return nn.functional.mse_loss(model.velocity(noisy, times, condition), latent - noise)


@torch.no_grad()
def _spread(model: LatentModel, images: Tensor) -> Tensor:
    """Return the standard deviation of all latent images, so that noise and images are of one size."""
    device = model.spread.device
    latents = [model.autoencoder.encode(part.to(device))[0].cpu() for part in images.split(model.config.batch)]
    return torch.cat(latents).std(correction=0).clamp_min(1e-6)


def _moments(optimisers: list[torch.optim.Adam]) -> Iterator[tuple[str, nn.Parameter, torch.optim.Adam]]:
    for number, optimiser in enumerate(optimisers):
        for place, parameter in enumerate(optimiser.param_groups[0]["params"]):
            yield f"adam.{number}.{place}", parameter, optimiser


def _state(model: LatentModel, optimisers: list[torch.optim.Adam], step: int) -> dict[str, Tensor]:
    """Return everything that the next step depends on."""
    state = {f"model.{name}": value.detach().cpu().clone() for name, value in model.state_dict().items()}
    for name, parameter, optimiser in _moments(optimisers):
        for key, value in optimiser.state.get(parameter, {}).items():
            state[f"{name}.{key}"] = value.detach().cpu().clone()
    losses = torch.tensor(model.losses, dtype=torch.float64).view(-1, 2)
    return state | {STEP: torch.tensor(step), LOSSES: losses}


def _restore(model: LatentModel, optimisers: list[torch.optim.Adam], state: Mapping[str, Tensor]) -> int:
    """Put a state back; return the steps that were done.

    Raises:
        ValueError: it is of other networks.
    """
    weights = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
        done, losses = int(state[STEP]), state[LOSSES].tolist()
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"the state is of other networks: {error}") from error
    model.losses = tuple((int(step), loss) for step, loss in losses)
    for name, parameter, optimiser in _moments(optimisers):
        kept = {key: state[f"{name}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in state}
        if kept:
            optimiser.state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter) for key, value in kept.items()
            }
    return done
