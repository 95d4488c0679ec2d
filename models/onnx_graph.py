"""The same network in ONNX, for programs without torch: one patient's scans in, logits and probabilities out.

The graph is written out here, node by node. A tracer would freeze the number of scans and the modalities it was shown.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.set_model import SetModel

if TYPE_CHECKING:
    import onnx

OPSET, IR = 18, 10  # of ONNX; readable by runtimes since 2024


def onnx_graph(model: SetModel, *, temperature: float = 1.0) -> "onnx.ModelProto":
    """φ and ρ for one patient.

    Inputs: `feature maps` (N, C, H, W) float32 and `modality` (N,) int64, for any N ≥ 1. Outputs: `logits` (1, K) and
    `probabilities` (1, K), softmax(logits / temperature).

    Args:
        model: in eval mode; the hypernetwork is resolved into one layer a modality.
        temperature: T.
    """
    from onnx import TensorProto, helper, numpy_helper

    channels, height, width = model.extractor.feature_map_shape
    with torch.no_grad():
        weights, biases = model.extractor.hypernetwork()
    tensors = {
        "centre": model.extractor.centre,
        "spread": model.extractor.spread,
        "weights": weights,
        "biases": biases[:, :, None],
        "positions": torch.tensor([0, channels, height * width]),
        "one_row": torch.tensor([0, -1]),
        "scans": torch.tensor([0]),
        "temperature": torch.tensor(temperature, dtype=torch.float32),
    }
    pooling, own_tensors = model.classifier.pooling.onnx()
    tensors |= own_tensors
    node = helper.make_node
    nodes = [
        node("Gather", ["centre", "modality"], ["centre_n"]),
        node("Gather", ["spread", "modality"], ["spread_n"]),
        node("Sub", ["feature_maps", "centre_n"], ["centred"]),
        node("Div", ["centred", "spread_n"], ["standardised"]),
        node("Reshape", ["standardised", "positions"], ["z"]),
        node("Gather", ["weights", "modality"], ["weights_n"]),
        node("Gather", ["biases", "modality"], ["biases_n"]),
        node("MatMul", ["weights_n", "z"], ["mixed"]),
        node("Add", ["mixed", "biases_n"], ["phi"]),
        node("Reshape", ["phi", "one_row"], ["features"]),
        *(node(operation, inputs, [output], **attributes) for operation, inputs, output, attributes in pooling),
    ]
    last = "rho_0"
    for number, layer in enumerate(model.classifier.rho, 1):
        here = f"rho_{number}"
        if isinstance(layer, nn.Linear):
            tensors |= {f"{here}_weight": layer.weight, f"{here}_bias": layer.bias}
            nodes.append(node("Gemm", [last, f"{here}_weight", f"{here}_bias"], [here], transB=1))
        elif isinstance(layer, nn.ReLU):
            nodes.append(node("Relu", [last], [here]))
        else:  # dropout does nothing in use
            continue
        last = here
    nodes += [
        node("Identity", [last], ["logits"]),
        node("Div", ["logits", "temperature"], ["calibrated"]),
        node("Softmax", ["calibrated"], ["probabilities"], axis=1),
    ]
    classes = int(tensors[f"{last}_bias"].shape[0])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "hypermm",
        [
            value("feature_maps", TensorProto.FLOAT, ["scans", channels, height, width]),
            value("modality", TensorProto.INT64, ["scans"]),
        ],
        [value(name, TensorProto.FLOAT, [1, classes]) for name in ("logits", "probabilities")],
        [numpy_helper.from_array(_numpy(tensor), name) for name, tensor in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def largest_difference(graph: "onnx.ModelProto", model: SetModel, sets: list[tuple[Tensor, Tensor]]) -> float:
    """Of logits, between ONNX's own reference and torch.

    Args:
        graph: from `onnx_graph`.
        model: that it was made from, on the CPU.
        sets: feature maps (N, C, H, W) and modality (N,) of each patient.

    Returns:
        Infinity if a logit of either is not finite.
    """
    from onnx.reference import ReferenceEvaluator

    evaluator, most = ReferenceEvaluator(graph), 0.0
    with torch.inference_mode(), np.errstate(all="ignore"):  # see Returns for what is not finite
        for feature_maps, modality in sets:
            result = evaluator.run(["logits"], {"feature_maps": _numpy(feature_maps), "modality": _numpy(modality)})[0]
            logits = model(feature_maps, modality, torch.zeros_like(modality), 1)
            difference = float((torch.from_numpy(result) - logits).abs().max())
            most = max(most, difference if math.isfinite(difference) else math.inf)
    return most


def _numpy(tensor: Tensor):  # type: ignore[no-untyped-def]
    return tensor.detach().cpu().contiguous().numpy()
