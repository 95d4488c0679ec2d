"""The two files of an exported model that other programs act on; both follow from configs/model.json.

MONAI runs configs/inference.json, and configs/settings.yaml becomes the settings of a run. A model whose files
differ from what this program would write is refused; a change of what is written here needs a change of `SCHEMA`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from files.reading import UnusableFileError
from files.safe_yaml import safe_yaml
from pipeline.deployment.bundle_layout import AGAIN, INFERENCE, METADATA, SETTINGS, WEIGHTS, BundleError, parsed, shown


def run_name(name: str) -> str:
    """Return a name other than that of the training run, whose workspace predictions must not write to."""
    return f"{name}-predictions"


def inference(name: str, network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of inference.json: `run` is the stage predict, `network_def` the network alone."""
    argv = ["'--stages'", "'predict'", "'--model'", "str(@bundle_root)", "'--cohort'", "str(@cohort)"]
    argv += ["'--workspace'", "str(@workspace)", "'--device'", "str(@device)"]
    return {
        "imports": ["$import sys", "$import run_pipeline"],
        "bundle_root": ".",
        "cohort": "cohort.csv",
        "workspace": f"runs/{run_name(name)}",
        "device": "auto",
        "network_def": {
            "_target_": "models.set_model.load_set_model",
            "weights": f"$str(@bundle_root) + '/{WEIGHTS}'",
            **network,
        },
        "run": [f"$sys.exit(run_pipeline.main([{', '.join(argv)}]))"],
    }


def settings(
    name: str, kinds: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]], weights: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of settings.yaml: how scans are prepared, and nothing else; no path of a machine."""
    random_weights = {"weights": "random"} if weights["features"] == "random" else {}
    return {
        "name": run_name(name),
        "cohort": {"modalities": dict(kinds), "manifest": None, "label": None},
        "preprocess": dict(sections["preprocess"]),
        "features": {**sections["features"], **random_weights},
    }


def for_monai(value: Any) -> Any:
    """Escape texts of metadata.json that MONAI would evaluate, resolve or read a file for."""
    if isinstance(value, Mapping):
        return {str(key): for_monai(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [for_monai(each) for each in value]
    return f" {value}" if isinstance(value, str) and value[:1] in ("$", "@", "%") else value


def check_configs(folder: Path, model: Mapping[str, Any], contents: Mapping[str, bytes]) -> None:
    """Compare both files with what this program writes for such a model.

    Args:
        folder: of the model.
        model: content of model.json, checked.
        contents: of the files of a model.

    Raises:
        BundleError: they differ, or MONAI would evaluate some of metadata.json.
    """
    actual = _mapping(folder / SETTINGS, contents[SETTINGS])
    expected = settings(model["name"], model["kinds"], model["settings"], model["weights"])
    for section in sorted(actual.keys() | expected.keys(), key=str):
        if section not in actual or section not in expected or actual[section] != expected[section]:
            raise BundleError(
                f"the model {folder} brings settings that are not a model's to make ({section}): {SETTINGS} says "
                "something else than configs/model.json. Do not trust it"
            )
    if parsed(folder / INFERENCE, contents[INFERENCE]) != inference(model["name"], model["network"]):
        raise BundleError(
            f"{folder / INFERENCE} is not what this program writes for such a model. MONAI runs that file as a "
            "program: do not run it, do not trust the model, and ask whoever gave it to you"
        )
    metadata = parsed(folder / METADATA, contents[METADATA])
    if not isinstance(metadata, dict) or "_target_" in str(metadata) or for_monai(metadata) != metadata:
        raise BundleError(
            f"{folder / METADATA} is no list of facts, or MONAI would run some of it. Do not trust the model"
        )


def _mapping(path: Path, content: bytes) -> dict[Any, Any]:
    """Read the mapping of a YAML file.

    Raises:
        BundleError: it holds no mapping, or is beyond the limits of `safe_yaml`.
    """
    try:
        value = safe_yaml(content.decode("utf-8"))
    except (yaml.YAMLError, UnusableFileError, UnicodeError) as error:
        raise BundleError(f"{path} is not YAML that is read here: {shown(str(error))}. {AGAIN}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{path} holds no settings. {AGAIN}")
    return value
