"""What all sites of a federation have to do alike, as plain values with a hash."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cohort.covariates import Encoder
from cohort.manifest import ModalityConfig
from console.errors import InputError
from models.joint.basis import PUBLIC_SEED
from models.joint.blocks import Blocks
from models.joint.federated import blocks_of
from pipeline.core.provenance import digest, result_settings
from pipeline.specs.contribute import ContributeConfig
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.training.joint_patients import CovariateBlocks

FORMAT = "hypermm-sums/1"
Plan = dict[str, Any]


def plan_of(
    config: ContributeConfig,
    classes: Sequence[str],
    modalities: Mapping[str, ModalityConfig],
    preprocess: PreprocessConfig,
    features: FeaturesConfig,
    shape: tuple[int, int, int],
) -> Plan:
    """Return the plan of a site's settings; sites can be added up if theirs are equal.

    Args:
        config: of the stage contribute.
        classes: names in order.
        modalities: all that the settings name, those without a scan at this site too.
        preprocess: how scans become volumes.
        features: how volumes become feature maps.
        shape: (C, H, W) of a feature map.

    Raises:
        InputError: a modality is a table.
    """
    if tables := [name for name, each in modalities.items() if each.kind == "table"]:
        raise InputError(
            f"{', '.join(tables)}: tables are coded by each site's own patients, so their numbers do not add up. Name "
            "columns that sites share in contribute.covariates, and leave the table out of cohort.modalities"
        )
    return {
        "format": FORMAT,
        "classes": list(classes),
        "modalities": {
            name: {"kind": each.kind, "skull_strip": each.skull_strip, "normalise": each.normalise}
            for name, each in sorted(modalities.items())
        },
        "covariates": {name: list(values) for name, values in sorted(config.covariates.items())},
        "basis": {"kind": "public", "seed": PUBLIC_SEED, "components": config.components},
        "feature_map_shape": list(shape),
        "feature_maps": config.feature_maps,
        "preprocess": {
            **result_settings(preprocess),
            "weights": PREPROCESS.external_state(preprocess),
            "version": PREPROCESS.version,
        },
        "features": {
            **result_settings(features),
            "weights": FEATURES.external_state(features),
            "version": FEATURES.version,
        },
    }


def plan_hash(plan: Plan) -> str:
    """Return the short hash of a plan."""
    return digest(plan)


def differences(one: Plan, other: Plan) -> list[str]:
    """Return a line for each entry in which two plans differ."""
    found = []
    for key in sorted(one.keys() | other.keys()):
        a, b = one.get(key), other.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{line}" for line in differences(a, b)]
        elif digest(a) != digest(b):
            found.append(f"{key}: {a} and {b}")
    return found


def encoder_of(plan: Plan) -> CovariateBlocks:
    """Return how covariates become numbers: as the plan says, learnt from nobody."""
    scales = {name: tuple(v) for name, v in plan["covariates"].items() if not isinstance(v[0], str)}
    values = {name: tuple(v) for name, v in plan["covariates"].items() if isinstance(v[0], str)}
    return CovariateBlocks(Encoder(scales, values))


def layout_of(plan: Plan) -> Blocks:
    """Return the blocks of a plan."""
    sizes = {name: 1 if not isinstance(v[0], str) else len(v) - 1 for name, v in plan["covariates"].items()}
    return blocks_of(
        plan["modalities"],
        sizes,
        channels=plan["feature_map_shape"][0],
        components=plan["basis"]["components"],
    )


def widths_of(plan: Plan) -> dict[str, int]:
    """Return modality → numbers of a feature map, where sums outside of the basis are shared."""
    channels, height, width = plan["feature_map_shape"]
    return dict.fromkeys(plan["modalities"], channels * height * width) if plan["feature_maps"] else {}


def cell_name(plan: Plan, key: tuple[int, tuple[bool, ...]], blocks: Blocks | None = None) -> str:
    """Return class and pattern of a cell in words; blocks are those of the plan where nothing else is given."""
    names = itertools.compress((blocks or layout_of(plan)).names, key[1])
    return f"{plan['classes'][key[0]]} with {' + '.join(names)}"
