"""The joint model as named arrays and plain values, and back."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.joint.basis import Basis
from models.joint.blocks import Blocks
from models.joint.decoder import FEATURES, IMAGE, Decoder
from models.joint.diffusion import Diffusion, DiffusionConfig
from models.joint.diffusion_model import DiffusionModel
from models.joint.embedding import Embedding
from models.joint.gaussian import JointGaussian, Parameters
from models.joint.model import JointModel
from models.joint.sums import Cell, Sums

Arrays = dict[str, NDArray[Any]]
DIFFUSION = "diffusion."  # before the names of the network's arrays
TRAINING = "training.scores"  # (n, d), of the patients that the model was learnt from
PERSONAL = ("sums.", "training.")


def to_arrays(model: JointModel) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of a model, and what is no array, for `from_arrays`; the latter can be written as JSON."""
    gaussian = model.gaussian
    arrays = _gaussian_arrays(gaussian)
    for number, basis in enumerate(model.bases.values()):
        arrays |= _basis_arrays(basis, f"basis.{number}.")
    arrays |= {"embedding.centre": model.embedding.centre, "embedding.directions": model.embedding.directions}
    for number, cell in enumerate(model.sums.cells.values()):
        arrays |= {f"sums.{number}.total": cell.total, f"sums.{number}.outer": cell.outer}
    facts = {
        "modalities": list(model.bases),
        "blocks": dict(zip(model.blocks.names, model.blocks.sizes, strict=True)),
        "classes": gaussian.classes,
        "draws": len(gaussian.draws),
        "shrinkage": gaussian.shrinkage,
        "iterations": gaussian.iterations,
        "shared": model.embedding.shared,
        "cells": [
            {"class": label, "has": list(pattern), "patients": cell.count}
            for (label, pattern), cell in model.sums.cells.items()
        ],
        "gaussian_notes": list(gaussian.notes),
        "notes": list(model.notes),
    }
    if isinstance(model, DiffusionModel):
        arrays |= {DIFFUSION + name: value.cpu().numpy() for name, value in model.engine.state_dict().items()}
        facts["diffusion"] = {**asdict(model.engine.config), "answer_seed": model.seed}
    return arrays, facts


def from_arrays(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> JointModel:
    """Return the model of `to_arrays`.

    Raises:
        ValueError: an array is missing, has another shape, or holds numbers that are not finite.
    """
    try:
        blocks = Blocks(tuple(facts["blocks"]), tuple(int(size) for size in facts["blocks"].values()))
        bases = {name: _basis(arrays, f"basis.{number}.") for number, name in enumerate(facts["modalities"])}
        estimate, draws = _parameters(arrays, int(facts["draws"]))
        cells = {
            (int(cell["class"]), tuple(bool(each) for each in cell["has"])): Cell(
                int(cell["patients"]), arrays[f"sums.{number}.total"], arrays[f"sums.{number}.outer"]
            )
            for number, cell in enumerate(facts["cells"])
        }
        embedding = Embedding(arrays["embedding.centre"], arrays["embedding.directions"], int(facts["shared"]))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"this is no joint model: {error!r}") from error
    _check(arrays, bases, blocks, estimate)
    gaussian = JointGaussian(
        blocks,
        estimate,
        draws,
        float(facts["shrinkage"]),
        tuple(facts["gaussian_notes"]),
        int(facts["iterations"]),
    )
    sums = Sums(blocks, int(facts["classes"]), cells)
    model = JointModel(bases, gaussian, embedding, sums, tuple(facts["notes"]))
    return _with_network(model, arrays, facts["diffusion"]) if facts.get("diffusion") else model


def _with_network(model: JointModel, arrays: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> DiffusionModel:
    """Put the network of the diffusion engine beside the linear model."""
    try:
        settings = DiffusionConfig(**{item.name: config[item.name] for item in fields(DiffusionConfig)})
        network = Diffusion(model.blocks, model.gaussian.classes, settings)
        own = {name: each for name, each in arrays.items() if name.startswith(DIFFUSION)}
        state = {name.removeprefix(DIFFUSION): torch.from_numpy(np.array(each)) for name, each in own.items()}
        network.load_state_dict(state)
        seed = int(config["answer_seed"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"this is no network of the diffusion engine: {error!r}") from error
    plain = {item.name: getattr(model, item.name) for item in fields(JointModel)}
    return DiffusionModel(**plain, diffusion=network.eval(), seed=seed)


def without_patients(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> tuple[Arrays, dict[str, Any]]:
    """Return arrays and facts without scores of patients, and without sums, which are those of who is alone in a cell.

    The model of these conditions, draws and embeds as before; no patient can be added to it or taken out.
    """
    return {name: each for name, each in arrays.items() if not name.startswith(PERSONAL)}, {**facts, "cells": []}


def decoder_to_arrays(decoder: Decoder) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays of a decoder, and what is no array, for `decoder_from_arrays`."""
    gaussian = decoder.gaussian
    facts = {"sizes": list(gaussian.blocks.sizes), "draws": len(gaussian.draws), "shrinkage": gaussian.shrinkage}
    return _basis_arrays(decoder.basis, "basis.") | _gaussian_arrays(gaussian), facts


def decoder_from_arrays(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> Decoder:
    """Return the decoder of `decoder_to_arrays`.

    Raises:
        ValueError: as `from_arrays`.
    """
    try:
        blocks = Blocks((FEATURES, IMAGE), tuple(int(size) for size in facts["sizes"]))
        estimate, draws = _parameters(arrays, int(facts["draws"]))
        basis = _basis(arrays, "basis.")
        gaussian = JointGaussian(blocks, estimate, draws, float(facts["shrinkage"]))
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(f"this is no decoder of a joint model: {error!r}") from error
    _check(arrays, {IMAGE: basis}, blocks, estimate)
    return Decoder(basis, gaussian)


def _basis_arrays(basis: Basis, prefix: str) -> Arrays:
    return {prefix + item.name: np.asarray(getattr(basis, item.name)) for item in fields(Basis)}


def _gaussian_arrays(gaussian: JointGaussian) -> Arrays:
    arrays: Arrays = {}
    for item in fields(Parameters):
        arrays[f"estimate.{item.name}"] = getattr(gaussian.estimate, item.name)
        if gaussian.draws:
            arrays[f"draws.{item.name}"] = np.stack([getattr(each, item.name) for each in gaussian.draws])
    return arrays


def _parameters(arrays: Mapping[str, NDArray[Any]], draws: int) -> tuple[Parameters, tuple[Parameters, ...]]:
    """Return the estimate and its draws."""
    names = [item.name for item in fields(Parameters)]
    estimate = Parameters(**{name: arrays[f"estimate.{name}"] for name in names})
    return estimate, tuple(
        Parameters(**{name: arrays[f"draws.{name}"][number] for name in names}) for number in range(draws)
    )


def _basis(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Basis:
    given: dict[str, Any] = {item.name: arrays[prefix + item.name] for item in fields(Basis)}
    return Basis(**given | {"scale": float(given["scale"])})


def _check(
    arrays: Mapping[str, NDArray[Any]], bases: Mapping[str, Basis], blocks: Blocks, estimate: Parameters
) -> None:
    """Refuse numbers that are not finite, and shapes that do not fit each other."""
    for name, values in arrays.items():
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    sizes = dict(zip(blocks.names, blocks.sizes, strict=True))
    wrong = [name for name, basis in bases.items() if sizes.get(name) != basis.size]
    if wrong or estimate.covariance.shape != (blocks.width,) * 2:
        raise ValueError(f"blocks {sizes} do not fit the bases or the covariance {estimate.covariance.shape}")
