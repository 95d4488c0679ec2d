"""The files of a federation: a contribution that a site sends, and the joint model that it gets back.

Both are safetensors with one JSON header. They come from others: sizes are bounded, every number and shape is checked,
and nothing of them is a path or is run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from console.errors import InputError
from files.reading import UnusableFileError, parse_json, read_bytes
from models.joint.blocks import Blocks
from models.joint.dense import length_of
from models.joint.federated import Contribution, OutsideSums
from models.joint.model import JointModel
from models.joint.state import from_arrays, to_arrays
from models.joint.sums import Cell, Sums
from pipeline.federation.plan import FORMAT, Plan, layout_of, plan_hash, widths_of

HEADER = "hypermm"
DOUBLE = np.dtype(np.float64)
MOST_FILE = 2_000_000_000  # bytes
LEAST_EIGENVALUE = -1e-8  # of a scatter matrix, of its largest; below, it is no rounding


class FederationFileError(InputError):
    """A contribution or a joint model cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Sent:
    """What one site sends; exactly one of the three kinds of sums is there.

    Attributes:
        facts: id, plan, repeat, noise, clip, and for masks site, sites, keys and round.
        plain: sums as they are.
        noisy: sums with noise, every possible cell, (n,).
        ring: sums with masks, modulo 2⁶⁴, (n,).
    """

    facts: dict[str, Any]
    plain: Contribution | None = None
    noisy: NDArray[np.float64] | None = None
    ring: NDArray[np.uint64] | None = None

    @property
    def plan(self) -> Plan:
        """What the site did."""
        plan: Plan = self.facts["plan"]
        return plan


def contribution_bytes(sent: Sent) -> bytes:
    """Return the file of a contribution."""
    arrays: dict[str, NDArray[Any]] = {}
    facts = {**sent.facts, "format": FORMAT, "plan_hash": plan_hash(sent.plan)}
    if sent.plain is not None:
        cells = sent.plain.sums.cells
        facts["cells"] = [{"class": k, "has": list(p), "patients": cell.count} for (k, p), cell in cells.items()]
        facts["outside"] = {name: part.count for name, part in sent.plain.outside.items()}
        for number, cell in enumerate(cells.values()):
            arrays |= {f"{number}.total": cell.total, f"{number}.outer": cell.outer}
        for number, part in enumerate(sent.plain.outside.values()):
            arrays |= {f"outside.{number}.total": part.total, f"outside.{number}.squares": part.squares}
    elif sent.noisy is not None:
        arrays["noisy"] = sent.noisy
    elif sent.ring is not None:
        arrays["ring"] = sent.ring
    header = {HEADER: json.dumps(facts, sort_keys=True, ensure_ascii=True)}
    return bytes(safetensors.numpy.save({k: np.array(v, order="C") for k, v in arrays.items()}, header))


def read_contribution(path: Path) -> Sent:
    """Read and check a contribution.

    Raises:
        FederationFileError: it is none, or its numbers cannot be sums of patients.
    """
    facts, arrays = _read(path)
    try:
        if facts["format"] != FORMAT or facts["plan"]["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r}; this program reads {FORMAT}")
        if facts["plan_hash"] != plan_hash(facts["plan"]):
            raise ValueError("its plan is not the one that it was made with")
        if not (isinstance(facts["id"], str) and isinstance(facts["repeat"], int)):
            raise ValueError("no id, or no repeat")
        blocks, classes = layout_of(facts["plan"]), len(facts["plan"]["classes"])
        if noise := facts.get("noise"):
            if not all(float(noise[name]) > 0 for name in ("epsilon", "delta", "sd")):
                raise ValueError("noise of no size")
        if facts.get("clip") is not None and not float(facts["clip"]) > 0:
            raise ValueError("scores shortened to no length")
        if facts.get("sites") is not None and not {"site", "round", "keys"} <= facts.keys():
            raise ValueError("masks without site, round or keys")
        if "cells" in facts:
            return Sent(facts, plain=_plain(facts, arrays, blocks, classes))
        length = length_of(blocks, classes, widths_of(facts["plan"]))
        (kind, values), *more = arrays.items()
        if (
            more
            or values.shape != (length,)
            or (kind, values.dtype) not in (("noisy", np.float64), ("ring", np.uint64))
        ):
            raise ValueError(f"{kind} of {values.shape} {values.dtype}; expected {length} numbers")
        if kind == "ring" and not facts.get("sites"):
            raise ValueError("masks without sites")
        if kind == "noisy" and not facts.get("noise"):
            raise ValueError("noise of no known size")
        return Sent(facts, noisy=values) if kind == "noisy" else Sent(facts, ring=values)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise FederationFileError(f"{path} is no usable contribution: {error}") from error


def _plain(facts: dict[str, Any], arrays: dict[str, NDArray[Any]], blocks: Blocks, classes: int) -> Contribution:
    cells, outside = {}, {}
    for number, entry in enumerate(facts["cells"]):
        label, pattern, count = int(entry["class"]), tuple(bool(v) for v in entry["has"]), int(entry["patients"])
        size = len(blocks.columns(pattern)) if len(pattern) == len(blocks.names) else 0
        total, outer = arrays[f"{number}.total"], arrays[f"{number}.outer"]
        if not (0 <= label < classes and count >= 1 and size and (label, pattern) not in cells):
            raise ValueError(f"cell {number} is of no class or pattern of the plan, or stands twice")
        if total.shape != (size,) or outer.shape != (size, size) or {total.dtype, outer.dtype} != {DOUBLE}:
            raise ValueError(
                f"cell {number}: sums of {total.shape} and {outer.shape}; expected {size} numbers each way"
            )
        scatter = outer - np.outer(total, total) / count
        values = np.linalg.eigvalsh((scatter + scatter.T) / 2)
        if not np.allclose(outer, outer.T) or values[0] < LEAST_EIGENVALUE * max(float(np.abs(outer).max()), 1e-300):
            raise ValueError(f"cell {number}: its sums of products cannot be of {count} patients with these sums")
        cells[label, pattern] = Cell(count, total, outer)
    widths = widths_of(facts["plan"])
    for number, (name, count) in enumerate(facts["outside"].items()):
        total, squares = arrays[f"outside.{number}.total"], arrays[f"outside.{number}.squares"]
        if name not in widths or not total.shape == squares.shape == (widths[name],) or int(count) < 1:
            raise ValueError(f"{name}: sums outside of the basis of {total.shape} numbers")
        outside[name] = OutsideSums(int(count), total.astype(np.float64), squares.astype(np.float64))
    return Contribution(Sums(blocks, classes, {key: cells[key] for key in sorted(cells)}), outside)


def model_bytes(model: JointModel, facts: dict[str, Any]) -> bytes:
    """Return the file of a joint model of several sites."""
    arrays, of_model = to_arrays(model)
    header = {HEADER: json.dumps({**facts, "format": f"{FORMAT} model", "model": of_model}, sort_keys=True)}
    return bytes(safetensors.numpy.save({k: np.array(v, order="C") for k, v in arrays.items()}, header))


def read_model(path: Path) -> tuple[JointModel, dict[str, Any]]:
    """Read a joint model of several sites, and what is known of it: plan, repeat, ids of contributions, notes.

    Raises:
        FederationFileError: it is none.
    """
    facts, arrays = _read(path)
    try:
        if facts["format"] != f"{FORMAT} model" or not isinstance(facts["repeat"], int):
            raise ValueError(f"format {facts['format']!r}; this program reads {FORMAT} model")
        names = {name: arrays[name] for name in arrays}
        model = from_arrays(names, facts["model"])
        shape = facts["plan"]["feature_map_shape"]
        if any(basis.components.shape[1] != np.prod(shape) for basis in model.bases.values()):
            raise ValueError(f"its bases are not of feature maps of {shape}")
        return model, facts
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise FederationFileError(f"{path} is no joint model of several sites: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        content = read_bytes(path, most=MOST_FILE)
        arrays = dict(safetensors.numpy.load(content))
        length = int.from_bytes(content[:8], "little")
        header = parse_json(parse_json(content[8 : 8 + length])["__metadata__"][HEADER].encode())
    except (OSError, UnusableFileError, safetensors.SafetensorError, KeyError, TypeError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FederationFileError(f"{path} cannot be read: {reason}; expected a file of a federation") from error
    if not isinstance(header, dict):
        raise FederationFileError(f"{path} has no header of a federation")
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise FederationFileError(f"{path}: {name} holds numbers that are not finite")
    return header, arrays
