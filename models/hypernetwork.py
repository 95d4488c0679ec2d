"""The hypernetwork h: from a modality to the weights of the extractor's last layer.

Source: HyperMM, section 2.2; Ha, Dai and Le 2016; initialisation after Chang, Flokas and Lipson 2020.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.settings import Initialisation


class HyperNetwork(nn.Module):
    """Modality → embedding (E) → Linear (H) → ReLU → Linear (C·C + C): weight and bias of a 1×1 convolution.

    Args:
        modalities: number of modalities M.
        channels: C, channels of a feature map.
        embedding: E, width of the modality embedding.
        hidden: H, width of the hidden layer.
        initialisation: "principled" makes the generated layers orthogonal and independent of each other; "default" is
            what torch does unasked, with generated weights far too large; it is kept for comparison.
    """

    def __init__(
        self,
        modalities: int,
        channels: int,
        *,
        embedding: int = 5,
        hidden: int = 20,
        initialisation: Initialisation = "principled",
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
        """Make every W_m an orthogonal matrix of its own, b_m = 0: W_m z keeps the mean square of z exactly.

        The generated weights are linear in the hidden activations a_m, which are known here; the head is the
        smallest one that turns each a_m into its W_m. Drawing the head at random, with only its variance right (Chang
        et al., equation 10), would keep the mean square on average over modalities only, and give modalities similar
        layers, since activations are never negative and so alike; φ then mixes their features up in the sum over the
        set (docs/decisions/0004). With more modalities than hidden units the nearest such head is taken.
        """
        count = self.embedding.num_embeddings
        layers = torch.stack([nn.init.orthogonal_(torch.empty(self.channels, self.channels)) for _ in range(count)])
        self.weight.weight.copy_((torch.linalg.pinv(self._activations()) @ layers.flatten(1)).T)
        for parameter in (self.weight.bias, self.bias.weight, self.bias.bias):
            nn.init.zeros_(parameter)

    def _activations(self) -> Tensor:
        return F.relu(self.hidden(self.embedding.weight))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return the layers of all modalities at once, since there are few.

        Returns:
            Weights (M, C, C) and biases (M, C).
        """
        activations = self._activations()
        return self.weight(activations).unflatten(1, (self.channels, self.channels)), self.bias(activations)
