"""φ and ρ as one network: from the blocks of a patient's scans to logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from models.extractor import UniversalExtractor
from models.set_classifier import Aggregate, SetClassifier


class SetModel(nn.Module):
    """ρ(aggregate_k φ(x_k, m_k)), built from plain numbers and words, as they stand in a bundle.

    Args:
        modalities: number of modalities M that φ knows.
        block_shape: (C, H, W) of a scan's block.
        classes: K.
        embedding: width of φ's modality embedding.
        hidden: width of the hypernetwork's hidden layer.
        rho_hidden: widths of ρ's hidden layers; none makes ρ linear.
        aggregate: over the scans of a set.

    Source: HyperMM, section 2.3, equations 1 and 2.
    """

    def __init__(
        self,
        *,
        modalities: int,
        block_shape: Sequence[int],
        classes: int,
        embedding: int = 5,
        hidden: int = 20,
        rho_hidden: Sequence[int] = (),
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__()
        channels, height, width = block_shape
        self.extractor = UniversalExtractor(
            modalities, (channels, height, width), embedding=embedding, hidden=hidden, initialisation="default"
        )
        self.classifier = SetClassifier(channels * height * width, classes, hidden=tuple(rho_hidden), how=aggregate)

    def forward(self, blocks: Tensor, modality: Tensor, sets: Tensor, count: int) -> Tensor:
        """Logits of sets of scans.

        Args:
            blocks: of the scans of all sets, (N, C, H, W), float32.
            modality: of each scan, (N,), int64 in [0, M).
            sets: which set each scan belongs to, (N,), int64 in [0, count); every set has at least one.
            count: number of sets B.

        Returns:
            (B, K).
        """
        return self.classifier(self.extractor(blocks, modality).flatten(1), sets, count)

    def load_parts(self, extractor: Mapping[str, Tensor], classifier: Mapping[str, Tensor]) -> "SetModel":
        """Take the weights of φ and ρ as the stages pretrain and classify keep them; returns itself, in eval mode."""
        self.extractor.load_state_dict(extractor)
        self.classifier.load_state_dict(classifier)
        return self.eval()


def load_set_model(
    weights: str | Path,
    *,
    modalities: int,
    block_shape: Sequence[int],
    classes: int,
    embedding: int,
    hidden: int,
    rho_hidden: Sequence[int],
    aggregate: Aggregate,
) -> SetModel:
    """A model with its weights, in eval mode on the CPU.

    Args:
        weights: safetensors file with the state dict of a `SetModel`.
        modalities: this and the rest as `SetModel` takes them.
        block_shape: (C, H, W).
        classes: K.
        embedding: of φ.
        hidden: of φ.
        rho_hidden: of ρ.
        aggregate: over the scans of a set.

    Raises:
        OSError: there is no such file.
        safetensors.SafetensorError: it is no safetensors file.
        RuntimeError: its tensors are not those of such a model.
    """
    import safetensors.torch

    model = SetModel(
        modalities=modalities,
        block_shape=block_shape,
        classes=classes,
        embedding=embedding,
        hidden=hidden,
        rho_hidden=rho_hidden,
        aggregate=aggregate,
    )
    model.load_state_dict(safetensors.torch.load_file(weights))
    return model.eval()
