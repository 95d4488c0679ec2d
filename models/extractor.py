"""The universal feature extractor φ, and step 1, which trains it on single scans.

Source: HyperMM, section 2.2 and figure 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.hypernetwork import HyperNetwork
from models.scale import Batches, feature_scale
from models.settings import FeatureScale, Initialisation


class UniversalExtractor(nn.Module):
    """φ(x, m) = W_m z + b_m at every position of the feature map, with (W_m, b_m) = h(m).

    The published network feeds z as the backbone gives it. Here z is first standardised with statistics of the
    training scans (`fit_normalisation`), because the backbones' outputs differ in size by two orders of magnitude
    and the two losses of step 1 are added without weights.

    Args:
        modalities: number of modalities M.
        feature_map_shape: (C, H, W).
        embedding: width of the modality embedding.
        hidden: width of the hypernetwork's hidden layer.
        initialisation: of the hypernetwork.
    """

    centre: Tensor
    spread: Tensor

    def __init__(
        self,
        modalities: int,
        feature_map_shape: tuple[int, int, int],
        *,
        embedding: int = 5,
        hidden: int = 20,
        initialisation: Initialisation = "principled",
    ) -> None:
        super().__init__()
        self.feature_map_shape = feature_map_shape
        self.hypernetwork = HyperNetwork(
            modalities, feature_map_shape[0], embedding=embedding, hidden=hidden, initialisation=initialisation
        )
        self.register_buffer("centre", torch.zeros(modalities, *feature_map_shape))
        self.register_buffer("spread", torch.ones(modalities, 1, 1, 1))

    def fit_normalisation(self, batches: Batches, how: FeatureScale) -> None:
        """Learn centre and spread of z from training scans; see `models.scale.feature_scale`."""
        centre, spread = feature_scale(batches, like=self.centre, how=how)
        self.centre.copy_(centre)
        self.spread.copy_(spread)

    def standardised(self, feature_maps: Tensor, modality: Tensor) -> Tensor:
        """Return z as the input of φ's last layer, (N, C, H, W)."""
        return (feature_maps - self.centre[modality]) / self.spread[modality]

    def forward(self, feature_maps: Tensor, modality: Tensor) -> Tensor:
        """Return features of scans.

        Args:
            feature_maps: z, (N, C, H, W), float32.
            modality: (N,), int64 in [0, M).

        Returns:
            φ, (N, C, H, W).
        """
        return self.last_layer(self.standardised(feature_maps, modality), modality)

    def last_layer(self, z: Tensor, modality: Tensor) -> Tensor:
        """Return W_m z + b_m of standardised feature maps; each modality's layer is generated once, not once a scan."""
        weights, biases = self.hypernetwork()
        out = torch.empty_like(z)
        for m in modality.unique().tolist():
            scans = (modality == m).nonzero().squeeze(1)
            out = out.index_copy(0, scans, F.conv2d(z[scans], weights[m][:, :, None, None], biases[m]))
        return out


class PretrainNetwork(nn.Module):
    """φ with the two heads of step 1: a decoder back to z, and a classifier of the single scan.

    Args:
        extractor: φ.
        classes: K.
        hidden: width of the classifier's hidden layer.
    """

    def __init__(self, extractor: UniversalExtractor, classes: int, *, hidden: int = 512) -> None:
        super().__init__()
        channels, height, width = extractor.feature_map_shape
        self.extractor = extractor
        self.classes = classes
        self.decoder = nn.Conv2d(channels, channels, 1)
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, feature_maps: Tensor, modality: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run one forward pass.

        Returns:
            Standardised z (N, C, H, W), its reconstruction (N, C, H, W), logits (N, K).
        """
        z = self.extractor.standardised(feature_maps, modality)
        features = self.extractor.last_layer(z, modality)
        return z, self.decoder(features), self.classifier(features)
