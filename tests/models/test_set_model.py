"""φ and ρ in one network, against its two parts; the ONNX graph, against ONNX's own reference."""

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from models.extractor import UniversalExtractor
from models.onnx_graph import largest_difference, onnx_graph
from models.set_classifier import AGGREGATES, SetClassifier
from models.set_model import SetModel, load_set_model, set_model_from, weight_shapes

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE = (8, 3, 2)


def parts(rho_hidden: tuple[int, ...], aggregate: str) -> tuple[UniversalExtractor, SetClassifier]:
    torch.manual_seed(0)
    extractor = UniversalExtractor(3, SHAPE, embedding=4, hidden=6)
    extractor.centre.normal_()
    extractor.spread.uniform_(0.5, 2)
    with torch.no_grad():
        extractor.hypernetwork.bias.weight.normal_()
    classifier = SetClassifier(48, 2, hidden=rho_hidden, dropout=0.5, how=aggregate)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.normal_(0, 0.3)
    return extractor.eval(), classifier.eval()


def arguments(rho_hidden: tuple[int, ...], aggregate: str) -> dict:
    return {
        "modalities": 3, "feature_map_shape": list(SHAPE), "classes": 2, "embedding": 4, "hidden": 6,
        "rho_hidden": list(rho_hidden), "aggregate": aggregate,
    }  # fmt: skip


def model(rho_hidden: tuple[int, ...], aggregate: str) -> SetModel:
    extractor, classifier = parts(rho_hidden, aggregate)
    return SetModel(**arguments(rho_hidden, aggregate)).load_parts(extractor.state_dict(), classifier.state_dict())


@pytest.mark.parametrize("rho_hidden", [(), (5, 4)])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_it_is_its_two_parts(tmp_path: Path, rho_hidden: tuple[int, ...], aggregate: str) -> None:
    extractor, classifier = parts(rho_hidden, aggregate)
    feature_maps, modality = torch.randn(7, *SHAPE), torch.tensor([0, 1, 2, 2, 0, 1, 1])
    sets = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    with torch.inference_mode():
        expected = classifier(extractor(feature_maps, modality).flatten(1), sets, 3)
        whole = model(rho_hidden, aggregate)
        assert torch.equal(whole(feature_maps, modality, sets, 3), expected)
        (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(whole.state_dict()))
        loaded = load_set_model(tmp_path / "model.safetensors", **arguments(rho_hidden, aggregate))
        assert torch.equal(loaded(feature_maps, modality, sets, 3), expected)
    assert not loaded.training


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    whole = model((), "mean")
    (tmp_path / "model.safetensors").write_bytes(safetensors.torch.save(whole.state_dict()))
    with pytest.raises(ValueError, match="expected the 13 tensors of such a model; 'classifier.rho.3.bias' is missing"):
        load_set_model(tmp_path / "model.safetensors", **arguments((5,), "mean"))


@pytest.mark.parametrize("rho_hidden", [(), (5,), (5, 4, 3)])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_the_shapes_are_those_of_the_network(rho_hidden: tuple[int, ...], aggregate: str) -> None:
    sizes = arguments(rho_hidden, aggregate)
    there = {name: tuple(tensor.shape) for name, tensor in SetModel(**sizes).state_dict().items()}
    assert weight_shapes(**sizes) == there


def test_a_network_is_not_built_before_its_weights_fit() -> None:
    content = safetensors.torch.save(model((), "mean").state_dict())
    with pytest.raises(ValueError, match=r"hidden\.weight is .*; expected torch\.float32 \(1000000000, "):
        set_model_from(content, **{**arguments((), "mean"), "hidden": 10**9})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.fill_(float("nan")), "has numbers that are not finite"),
        (lambda t: t.double(), "is torch.float64"),
        (lambda t: t.bfloat16(), "is torch.bfloat16"),
    ],
)
def test_weights_that_are_not_finite_or_of_another_type_are_refused(
    tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], told: str
) -> None:
    state = model((), "mean").state_dict()
    name = "extractor.centre"
    (tmp_path / "weights").write_bytes(safetensors.torch.save({**state, name: change(state[name].clone())}))
    with pytest.raises(ValueError, match=rf"extractor\.centre {told}"):
        load_set_model(tmp_path / "weights", **arguments((), "mean"))


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 100, b"\x08" + b"\0" * 7 + b"[[[[[[[["])
def test_what_is_no_safetensors_file_is_told(content: bytes) -> None:
    with pytest.raises(ValueError, match="no safetensors file that can be read"):
        set_model_from(content, **arguments((), "mean"))


def random_sets() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(4)
    return [
        (torch.randn(size, *SHAPE, generator=draw), torch.randint(3, (size,), generator=draw))
        for size in (1, 2, 3, 4, 4, 3)
    ]


@pytest.mark.parametrize("rho_hidden", [(), (5, 4)])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_onnx_gives_the_same_logits(rho_hidden: tuple[int, ...], aggregate: str) -> None:
    whole = model(rho_hidden, aggregate)
    assert largest_difference(onnx_graph(whole), whole, random_sets()) < 1e-5


def test_a_difference_is_noticed() -> None:
    whole, other = model((), "mean"), model((), "mean")
    graph = onnx_graph(whole)
    with torch.no_grad():
        other.classifier.rho[0].bias[0] += 0.01
    assert largest_difference(graph, other, random_sets()) == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", range(6))
def test_what_is_not_finite_never_agrees(value: float, place: int) -> None:
    whole = model((), "mean")
    sets = random_sets()
    sets[place][0][0, 0, 0, 0] = value
    assert largest_difference(onnx_graph(whole), whole, sets) == float("inf")


def test_onnx_is_valid_and_its_probabilities_are_calibrated() -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    whole = model((5,), "mean")
    graph = onnx_graph(whole, temperature=2.5)
    onnx.checker.check_model(graph, full_check=True)
    feature_maps, modality = random_sets()[3]
    found = ReferenceEvaluator(graph).run(None, {"feature_maps": feature_maps.numpy(), "modality": modality.numpy()})
    with torch.inference_mode():
        logits = whole(feature_maps, modality, torch.zeros_like(modality), 1)
    torch.testing.assert_close(torch.from_numpy(found[1]), (logits / 2.5).softmax(1), atol=1e-6, rtol=0)
