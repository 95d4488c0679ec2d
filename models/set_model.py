"""φ and ρ as one network: from the feature maps of a patient's scans to logits."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from files.reading import read_bytes
from models.extractor import UniversalExtractor
from models.set_classifier import AGGREGATES, Aggregate, SetClassifier

MOST_BYTES = 2 << 30  # of a weights file


class SetModel(nn.Module):
    """ρ(aggregate_k φ(x_k, m_k)), built from plain numbers and words, as they stand in a bundle.

    Args:
        modalities: number of modalities M that φ knows.
        feature_map_shape: (C, H, W) of a scan's feature map.
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
        feature_map_shape: Sequence[int],
        classes: int,
        embedding: int = 5,
        hidden: int = 20,
        rho_hidden: Sequence[int] = (),
        aggregate: Aggregate = "mean",
    ) -> None:
        super().__init__()
        channels, height, width = feature_map_shape
        self.extractor = UniversalExtractor(
            modalities, (channels, height, width), embedding=embedding, hidden=hidden, initialisation="default"
        )
        self.classifier = SetClassifier(channels * height * width, classes, hidden=tuple(rho_hidden), how=aggregate)

    def forward(self, feature_maps: Tensor, modality: Tensor, sets: Tensor, count: int) -> Tensor:
        """Return logits of sets of scans.

        Args:
            feature_maps: of the scans of all sets, (N, C, H, W), float32.
            modality: of each scan, (N,), int64 in [0, M).
            sets: which set each scan belongs to, (N,), int64 in [0, count); every set has at least one.
            count: number of sets B.

        Returns:
            (B, K).
        """
        return self.classifier(self.extractor(feature_maps, modality).flatten(1), sets, count)

    def load_parts(self, extractor: Mapping[str, Tensor], classifier: Mapping[str, Tensor]) -> "SetModel":
        """Take the weights of φ and ρ as the stages pretrain and classify keep them; returns itself, in eval mode."""
        self.extractor.load_state_dict(extractor)
        self.classifier.load_state_dict(classifier)
        return self.eval()


def load_set_model(weights: str | Path, **arguments: Any) -> SetModel:
    """Return a model with its weights, in eval mode on the CPU.

    Args:
        weights: safetensors file with the state dict of a `SetModel`.
        arguments: all that `SetModel` takes.

    Raises:
        OSError: there is no such file.
        ValueError: it does not hold the weights of such a model, or one is not a finite number.
    """
    return set_model_from(read_bytes(Path(weights), most=MOST_BYTES), **arguments)


def set_model_from(content: bytes, *, aggregate: Aggregate, **sizes: Any) -> SetModel:
    """Return a model with the weights of a safetensors file, in eval mode on the CPU.

    The file is not trusted. Its tensors are compared with what such a model has before one is built, so that no more
    memory is taken than the file itself has bytes.

    Args:
        content: of the file.
        aggregate: as `SetModel`.
        sizes: the other arguments of `SetModel`, all of them.

    Raises:
        ValueError: it does not hold the weights of such a model, or one is not a finite number.
    """
    try:
        state = safetensors.torch.load(content)
    except (safetensors.SafetensorError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no safetensors file that can be read ({type(error).__name__})") from error
    expected = weight_shapes(**sizes, aggregate=aggregate)
    if wrong := sorted(state.keys() ^ expected.keys()):
        raise ValueError(
            f"expected the {len(expected)} tensors of such a model; {wrong[0]!r:.80} is missing or strange"
        )
    for name, shape in expected.items():
        tensor = state[name]
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; expected {torch.float32} {shape}")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} has numbers that are not finite")
    model = SetModel(**sizes, aggregate=aggregate)
    model.load_state_dict(state)
    return model.eval()


def weight_shapes(
    *,
    modalities: int,
    feature_map_shape: Sequence[int],
    classes: int,
    embedding: int,
    hidden: int,
    rho_hidden: Sequence[int],
    aggregate: Aggregate = "mean",
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a `SetModel`'s weights, without making them; arguments as in `SetModel`."""
    channels, height, width = feature_map_shape
    layer = "extractor.hypernetwork"
    shapes: dict[str, tuple[int, ...]] = {
        "extractor.centre": (modalities, channels, height, width),
        "extractor.spread": (modalities, 1, 1, 1),
        f"{layer}.embedding.weight": (modalities, embedding),
    }
    linear = [(f"{layer}.hidden", embedding, hidden), (f"{layer}.weight", hidden, channels * channels)]
    linear.append((f"{layer}.bias", hidden, channels))
    widths = [channels * height * width, *rho_hidden, classes]
    step = 3  # a linear layer, a ReLU, a dropout
    linear += [(f"classifier.rho.{step * i}", *pair) for i, pair in enumerate(itertools.pairwise(widths))]
    for name, inputs, outputs in linear:
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    with torch.device("meta"):  # shapes without memory
        own = AGGREGATES[aggregate](widths[0]).state_dict()
    return shapes | {f"classifier.pooling.{name}": tuple(tensor.shape) for name, tensor in own.items()}
