"""Adam with mixed precision, whose state is a flat dict of tensors."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Optimiser:
    """Adam as both papers set it, for networks whose forward pass runs under `autocast`.

    With float16 the loss is scaled so that small gradients survive, and a step with infinite gradients is left out;
    bfloat16 and float32 need neither.

    Args:
        networks: whose parameters are trained.
        learning_rate: of Adam; betas are 0.5 and 0.999.
        dtype: of the forward pass.
        device: where the networks are.
    """

    def __init__(
        self, networks: Iterable[nn.Module], *, learning_rate: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.parameters = [parameter for network in networks for parameter in network.parameters()]
        self.adam = torch.optim.Adam(self.parameters, lr=learning_rate, betas=(0.5, 0.999), fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate from the next step on."""
        for group in self.adam.param_groups:
            group["lr"] = rate

    def step(self, loss: Tensor) -> None:
        """Take one gradient step on a scalar loss."""
        self.adam.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.adam)
        self.scaler.update()

    def state(self) -> dict[str, Tensor]:
        """Return moments of every parameter by its number, and the loss scale if there is one; copies on the CPU."""
        state = {
            f"{number}.{name}": self.adam.state[parameter][name].detach().cpu().clone()
            for number, parameter in enumerate(self.parameters)
            if parameter in self.adam.state
            for name in MOMENTS
        }
        if self.scaler.is_enabled():
            scaler = self.scaler.state_dict()
            state["loss_scale"] = torch.tensor(scaler["scale"], dtype=torch.float64)
            state["steps_since_rescaled"] = torch.tensor(scaler["_growth_tracker"])
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore a state returned by `state`."""
        moments = {
            number: {name: state[f"{number}.{name}"] for name in MOMENTS}
            for number in range(len(self.parameters))
            if f"{number}.step" in state
        }
        groups = self.adam.state_dict()["param_groups"]
        self.adam.load_state_dict({"state": moments, "param_groups": groups})
        if self.scaler.is_enabled():
            scale, tracker = float(state["loss_scale"]), int(state["steps_since_rescaled"])
            self.scaler.load_state_dict(self.scaler.state_dict() | {"scale": scale, "_growth_tracker": tracker})


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Run what is inside in `dtype` where that is safe; nothing changes with float32."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
