"""The hypernetwork h: from a modality to the weights of the extractor's last layer.

Source: HyperMM, section 2.2; Ha, Dai and Le 2016; initialisation after Chang, Flokas and Lipson 2020.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HyperNetwork(nn.Module):
    """Modality → embedding (E) → Linear (H) → ReLU → Linear (C·C + C): weight and bias of a 1×1 convolution.

    Args:
        modalities: number of modalities M.
        channels: C, channels of a block.
        embedding: E, width of the modality embedding.
        hidden: H, width of the hidden layer.
        initialisation: "principled" gives the generated layer the variance of an ordinary one; "default" is what
            torch does unasked, with generated weights far too large; it is kept for comparison.
    """

    def __init__(
        self,
        modalities: int,
        channels: int,
        *,
        embedding: int = 5,
        hidden: int = 20,
        initialisation: Literal["principled", "default"] = "principled",
    ) -> None:
        super().__init__()
        self.channels = channels
        self.embedding = nn.Embedding(modalities, embedding)
        self.hidden = nn.Linear(embedding, hidden)
        self.weight = nn.Linear(hidden, channels * channels)
        self.bias = nn.Linear(hidden, channels)
        if initialisation == "principled":
            self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Var(W_m) = 1 / C and b_m = 0 at the start, so that W_m z keeps the mean square of z.

        Each generated weight is a sum over the hidden activations a_m, hence Var = Var(head) · ‖a_m‖². The
        activations are known here, so the head is scaled by their mean square over modalities instead of by an
        expectation (Chang et al., equation 10, with the modalities that are really there).
        """
        square = self._activations().square().sum(1).mean().clamp_min(1e-6)
        nn.init.normal_(self.weight.weight, std=float((self.channels * square) ** -0.5))
        for parameter in (self.weight.bias, self.bias.weight, self.bias.bias):
            nn.init.zeros_(parameter)

    def _activations(self) -> Tensor:
        return F.relu(self.hidden(self.embedding.weight))

    def forward(self) -> tuple[Tensor, Tensor]:
        """The layers of all modalities at once, since there are few.

        Returns:
            Weights (M, C, C) and biases (M, C).
        """
        activations = self._activations()
        return self.weight(activations).unflatten(1, (self.channels, self.channels)), self.bias(activations)
