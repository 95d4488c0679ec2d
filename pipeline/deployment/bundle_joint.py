"""The joint model in an exported model: optional, and without any patient's scores.

    joint.json                 blocks, covariates, grid of the images, number of training patients, distances
    models/joint.safetensors   bases, Gaussian with draws of its parameters, embedding, decoders

The sums that the model was learnt from stay at home: a cell with one patient *is* that patient. So does a model with a
mean of fewer than `FEWEST` patients of a class. What leaves of single patients is how far held-out ones lie from
training, sorted. Both files may come from an untrusted source, and are checked as all others are.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import FailFast, Field, model_validator

from models.joint.basis import Basis
from models.joint.decoder import Decoder
from models.joint.diffusion_model import DiffusionModel
from models.joint.model import COVARIATE, JointModel
from models.joint.state import (
    Arrays,
    decoder_from_arrays,
    decoder_to_arrays,
    from_arrays,
    to_arrays,
    without_patients,
)
from pipeline.deployment.bundle_contents import Exactly, Name, Names, content_of
from pipeline.deployment.bundle_layout import AGAIN, BundleError, shown
from pipeline.training.joint_patients import CovariateBlocks
from synthesis.grid import box_shape
from synthesis.patients import FEWEST

SINGLE = {item.name for item in fields(Basis)} - {"scale"}  # arrays of a basis in float32; all others are float64
MAP = 2  # directions that are drawn
Size = Annotated[int, Field(ge=1, le=2000)]
LARGEST = 1e30  # of any number: beyond, it is nonsense
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


@dataclass(frozen=True)
class ExportedJoint:
    """The joint model as it is exported.

    Attributes:
        model: without sums.
        decoders: modality → from feature maps to images.
        kinds: modality with a decoder → volume or image.
        spacing_mm: of decoded volumes.
        pixels: side of decoded pictures.
        covariates: how covariates are coded; None for none.
        training: patients that the model was learnt from.
        distances: of held-out subjects from training, sorted.
    """

    model: JointModel
    decoders: Mapping[str, Decoder]
    kinds: Mapping[str, str]
    spacing_mm: float
    pixels: int
    covariates: CovariateBlocks | None
    training: int
    distances: tuple[float, ...]


def of_no_bundle(model: JointModel) -> str:
    """Return why a bundle cannot hold the model; "" if it can."""
    if not isinstance(model, DiffusionModel):
        return ""
    return (
        "it is of the engine diffusion, and bundles answer by the linear engine; type --joint.engine linear --stages "
        "joint,export"
    )


def like_single_patients(
    model: JointModel, classes: Sequence[str], counted: Mapping[str, Sequence[int]] | None = None
) -> str:
    """Return which class has a mean of too few training patients to leave; "" if none has.

    Args:
        model: with its sums.
        classes: names, in order.
        counted: block → patients of each class that have it. Without it the sums are asked; those of other sites may
            hold several sessions of a patient, from earlier versions.
    """
    patients = model.sums.with_block()
    if counted is not None:
        patients = np.array([counted[name] for name in model.blocks.names]).T
    few = np.argwhere((patients > 0) & (patients < FEWEST)).tolist()
    if not few:
        return ""
    k, b = few[0]
    name = model.blocks.names[b].removeprefix(COVARIATE)
    return (
        f"{patients[k, b]} training patients of the class {classes[k]} have {name}, and a mean of fewer than {FEWEST} "
        "is too much like each of them"
    )


def distances_of(embeddings: pd.DataFrame) -> tuple[float, ...]:
    """Return the distance of each held-out subject (the farthest of its observations), sorted."""
    rows = embeddings[embeddings["split"].isin(["validation", "test"])].dropna(subset=["distance"])
    return tuple(sorted(round(float(each), 4) for each in rows.groupby("subject")["distance"].max()))


# --- writing ---


def joint_files(joint: ExportedJoint) -> tuple[dict[str, Any], bytes]:
    """Return the content of joint.json, and of joint.safetensors."""
    arrays, facts = without_patients(*to_arrays(joint.model))
    decoders = {}
    for number, (modality, decoder) in enumerate(joint.decoders.items()):
        own, about = decoder_to_arrays(decoder)
        arrays |= {f"decoder.{number}.{name}": values for name, values in own.items()}
        decoders[modality] = {**about, "kind": joint.kinds[modality]}
    content = {
        **{name: facts[name] for name in ("modalities", "blocks", "classes", "draws", "shared")},
        "decoders": decoders,
        "spacing_mm": joint.spacing_mm,
        "pixels": joint.pixels,
        "covariates": None if joint.covariates is None else joint.covariates.to_json(),
        "training": joint.training,
        "distances": list(joint.distances),
    }
    plain = {name: np.array(values, order="C") for name, values in arrays.items()}
    return json.loads(json.dumps(content)), safetensors.numpy.save(plain)


# --- reading ---


class _Covariates(Exactly):
    scales: dict[Name, Annotated[list[Number], Field(min_length=2, max_length=2)]]
    values: dict[Name, Annotated[Names, Field(min_length=2, max_length=1000)]]

    @model_validator(mode="after")
    def _spread(self) -> Self:
        if any(not spread > 0 for _, spread in self.scales.values()):
            raise ValueError("a covariate has no spread")
        return self


class _Decoder(Exactly):
    sizes: Annotated[list[Size], Field(min_length=2, max_length=2)]
    draws: Annotated[int, Field(ge=1, le=1000)]
    shrinkage: Annotated[float, Field(ge=0, le=1)]
    kind: Literal["volume", "image"]


class JointContent(Exactly):
    """Content of joint.json."""

    modalities: Annotated[Names, Field(min_length=1, max_length=100)]
    blocks: dict[Name, Size]
    classes: Annotated[int, Field(ge=2, le=1000)]
    draws: Annotated[int, Field(ge=1, le=1000)]
    shared: Annotated[int, Field(ge=0, le=16)]
    decoders: dict[Name, _Decoder]
    spacing_mm: Annotated[float, Field(ge=2, le=10)]
    pixels: Annotated[int, Field(ge=16, le=256)]
    covariates: _Covariates | None
    training: Annotated[int, Field(ge=1)]
    distances: Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], FailFast()]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if list(self.blocks)[: len(self.modalities)] != self.modalities:
            raise ValueError("blocks do not begin with the modalities")
        widths = {} if self.covariates is None else self.covariate_widths()
        for name, size in list(self.blocks.items())[len(self.modalities) :]:
            if widths.get(name.removeprefix(COVARIATE)) != size or not name.startswith(COVARIATE):
                raise ValueError(f"the block {shown(name)} is no covariate of that size")
        if strange := set(self.decoders) - set(self.modalities):
            raise ValueError(f"decoders has {shown(min(strange))}, modalities has not")
        if any(each.sizes[0] != self.blocks[name] for name, each in self.decoders.items()):
            raise ValueError("a decoder reads other scores than its modality has")
        return self

    def covariate_widths(self) -> dict[str, int]:
        """Return covariate → numbers."""
        if self.covariates is None:
            return {}
        return {
            **dict.fromkeys(self.covariates.scales, 1),
            **{name: len(values) - 1 for name, values in self.covariates.values.items()},
        }


def joint_of(
    paths: tuple[Path, Path],
    contents: tuple[bytes, bytes],
    *,
    trained: tuple[str, ...],
    classes: int,
    feature_map_shape: list[int],
) -> ExportedJoint:
    """Read the joint model.

    Args:
        paths: of joint.json and joint.safetensors.
        contents: their bytes.
        trained: modalities that φ was trained on.
        classes: K of the exported model.
        feature_map_shape: (C, H, W).

    Raises:
        BundleError: it is not one, or not one of this exported model.
    """
    facts = content_of(paths[0], contents[0], JointContent)
    if facts["classes"] != classes or not set(facts["modalities"]) <= set(trained):
        raise BundleError(f"{paths[0]} is of other classes or modalities than the model. {AGAIN}")
    expected = _shapes(facts, int(np.prod(feature_map_shape)))
    arrays = _arrays(paths[1], contents[1], expected)
    model_facts = {**facts, "cells": [], "shrinkage": 0.0, "iterations": 0, "gaussian_notes": [], "notes": []}
    model = from_arrays({n: a for n, a in arrays.items() if not n.startswith("decoder.")}, model_facts)
    if len(model.embedding.directions) < MAP:
        raise BundleError(f"{paths[1]} has {len(model.embedding.directions)} direction; a map has {MAP}. {AGAIN}")
    decoders = {
        name: decoder_from_arrays(_below(arrays, f"decoder.{number}."), about)
        for number, (name, about) in enumerate(facts["decoders"].items())
    }
    return ExportedJoint(
        model=model,
        decoders=decoders,
        kinds={name: about["kind"] for name, about in facts["decoders"].items()},
        spacing_mm=float(facts["spacing_mm"]),
        pixels=facts["pixels"],
        covariates=None if facts["covariates"] is None else CovariateBlocks.from_json(facts["covariates"]),
        training=facts["training"],
        distances=tuple(sorted(facts["distances"])),
    )


def _shapes(facts: Mapping[str, Any], features: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array; -1 for the one number that is only known from the file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, name in enumerate(facts["modalities"]):
        shapes |= _basis_shapes(f"basis.{number}.", facts["blocks"][name], features)
    width, classes = sum(facts["blocks"].values()), facts["classes"]
    shapes |= _gaussian_shapes("", width, classes, facts["draws"])
    shapes |= {"embedding.centre": (width,), "embedding.directions": (-1, width)}
    for number, about in enumerate(facts["decoders"].values()):
        prefix = f"decoder.{number}."
        voxels = int(np.prod(box_shape(facts["spacing_mm"]))) if about["kind"] == "volume" else 3 * facts["pixels"] ** 2
        shapes |= _basis_shapes(f"{prefix}basis.", about["sizes"][1], voxels)
        shapes |= _gaussian_shapes(prefix, sum(about["sizes"]), classes, about["draws"])
    return shapes


def _basis_shapes(prefix: str, size: int, features: int) -> dict[str, tuple[int, ...]]:
    wide = dict.fromkeys(("centre", "offset", "residual", "agreement"), (features,))
    shapes = {**wide, "components": (size, features), "sketch": (-1, features), "scale": ()}
    return {prefix + name: shape for name, shape in shapes.items()}


def _gaussian_shapes(prefix: str, width: int, classes: int, draws: int) -> dict[str, tuple[int, ...]]:
    one = {"share": (classes,), "mean": (classes, width), "covariance": (width, width)}
    many = {f"{prefix}draws.{name}": (draws, *shape) for name, shape in one.items()}
    return {f"{prefix}estimate.{name}": shape for name, shape in one.items()} | many


def _arrays(path: Path, content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    try:
        arrays: Arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path} is no safetensors file. {AGAIN}") from error
    if set(arrays) != set(shapes):
        wrong = sorted(set(arrays) ^ set(shapes))
        raise BundleError(f"{path} lacks, or has too much, {shown(wrong[0])} of {len(wrong)}. {AGAIN}")
    for name, values in arrays.items():
        kind = "float32" if name.rpartition(".")[2] in SINGLE and "basis." in name else "float64"
        fits = values.ndim == len(shapes[name]) and all(
            have == want or (want == -1 and 0 < have <= 100)
            for have, want in zip(values.shape, shapes[name], strict=True)
        )
        if not fits or values.dtype != kind:
            raise BundleError(
                f"{path}: {shown(name)} is {values.dtype} {values.shape}; expected {kind} {shapes[name]}. {AGAIN}"
            )
        if fault := _fault(name, values):
            raise BundleError(f"{path}: {shown(name)} {fault}. {AGAIN}")
    return arrays


def _fault(name: str, values: NDArray[Any]) -> str:
    """Return what is wrong with the values of an array; "" for nothing."""
    what = name.rpartition(".")[2]
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > LARGEST:
        return "has numbers that are not finite, or too large"
    if what in ("residual", "scale", "share", "agreement") and (values < 0).any():
        return "has a negative number"
    if what == "share" and not np.allclose(values.sum(axis=-1), 1, atol=1e-6):
        return "does not add up to 1"
    if what == "covariance":
        if not np.allclose(values, np.swapaxes(values, -1, -2), rtol=1e-6, atol=1e-9 * np.abs(values).max()):
            return "is not symmetric"
        try:
            np.linalg.cholesky(values)
        except np.linalg.LinAlgError:
            return "is no covariance: it has a negative direction"
    return ""


def _below(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}
