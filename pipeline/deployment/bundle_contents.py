"""Schemas of the JSON files of an exported model: types, ranges, and consistency between files.

Only content that prediction reads is checked; other content (figures for the model card) is not.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field, ValidationError, model_validator

from evaluation.conformal import ONE_MINUS_P, known_score
from models.settings import Aggregate
from pipeline.deployment.bundle_layout import AGAIN, ROLES, BundleError, parsed, shown

LONGEST_NAME = 300  # characters
MOST_ROUNDS = 200_000  # of PBKDF2; a tenth of a second a subject
MOST_REPORTED = 3  # problems of one file
ORDERS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # change the order in which a name is shown


def _name(text: str) -> str:
    if not text.strip() or len(text) > LONGEST_NAME:
        raise ValueError(f"expected a name of 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in ORDERS for letter in text):
        raise ValueError("a name has no control characters")
    return text


def _different(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a name occurs twice")
    return names


def _plain(value: Any) -> Any:
    """Check numbers, texts, lists and mappings: only finite numbers, no terminal control characters."""
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str) and value:
        return _name(value)
    if isinstance(value, int | float) and not (math.isfinite(value) and abs(value) < 2**63):
        raise ValueError("a number is not finite, or too large")
    return value


def _roles(table: Any) -> Any:
    """Check a table of hash → role, without pydantic: it may have hundreds of thousands of entries."""
    if not isinstance(table, dict):
        raise ValueError("expected a mapping from hashes to roles")
    for key, role in table.items():
        if not re.fullmatch("[0-9a-f]{64}", key) or not (isinstance(role, str) and role in ROLES):
            raise ValueError(f"{shown(key)} is {shown(role)}; expected a hash that is one of {', '.join(ROLES)}")
    return table


Name = Annotated[str, AfterValidator(_name)]
Names = Annotated[list[Name], FailFast(), AfterValidator(_different)]
Plain = Annotated[Any, AfterValidator(_plain)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Share = Annotated[float, Field(ge=0, le=1)]
Roles = Annotated[Any, AfterValidator(_roles)]
Release = Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$", max_length=60)]


class _Content(BaseModel):
    """Strict content: no number is parsed from a text, and all numbers are finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Exactly(_Content):
    """Strict content without other keys: all of it is used."""

    model_config = ConfigDict(extra="forbid")


class _Network(Exactly):
    modalities: Annotated[int, Field(ge=1, le=100)]
    feature_map_shape: Annotated[list[Annotated[int, Field(ge=1, le=10_000)]], Field(min_length=3, max_length=3)]
    classes: Annotated[int, Field(ge=2, le=1000)]
    embedding: Width
    hidden: Width
    rho_hidden: Annotated[list[Width], Field(max_length=20)]
    aggregate: Aggregate


class _Kind(Exactly):
    kind: Literal["volume", "image", "table"]
    columns: dict[Name, Literal["category", "number"]] = {}  # older exported models do not have it
    skull_strip: bool
    normalise: Name = "minmax"  # nor this
    trust: Literal["sform", "qform"] | None = None  # nor this
    bits: Annotated[int, Field(ge=8, le=16)] | None = None  # nor this


class _Column(Exactly):
    name: Name
    categories: Names
    centre: Annotated[list[float], FailFast()]
    spread: Annotated[float, Field(ge=0)]
    missing: Share

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.centre) != (len(self.categories) or len(self.centre[:1])):
            raise ValueError("centre needs one number for each category, or one alone")
        return self


class _Sections(Exactly):
    preprocess: dict[Name, Plain]
    features: dict[Name, Plain]


class _Weights(Exactly):
    preprocess: Plain
    features: Plain


class _Version(_Content):
    version: Annotated[int, Field(ge=1, le=1_000_000)]


class _MadeWith(Exactly):
    preprocess: _Version
    features: _Version


class ModelContent(_Content):
    """Content of configs/model.json."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=LONGEST_NAME)]
    version: Release
    classes: Annotated[Names, Field(min_length=2, max_length=1000)]
    modalities: Annotated[Names, Field(min_length=1, max_length=100)]
    trained: Annotated[Names, Field(min_length=1)]
    network: _Network
    kinds: dict[Name, _Kind]
    tables: dict[Name, Annotated[list[_Column], Field(min_length=1, max_length=10_000)]] = {}
    settings: _Sections
    weights: _Weights
    made_with: _MadeWith
    most_scans: dict[Name, Annotated[int, Field(ge=1, le=1_000_000)]] = {}  # older exported models do not have it

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if unknown := set(self.trained) - set(self.modalities):
            raise ValueError(f"trained has {shown(min(unknown))}, modalities has not")
        if set(self.kinds) != set(self.modalities):
            raise ValueError("kinds and modalities have different names")
        if unknown := set(self.most_scans) - set(self.modalities):
            raise ValueError(f"most_scans has {shown(min(unknown))}, modalities has not")
        if (self.network.modalities, self.network.classes) != (len(self.modalities), len(self.classes)):
            raise ValueError("network has other numbers of modalities and classes than names")
        if set(self.tables) != {name for name in self.trained if self.kinds[name].kind == "table"}:
            raise ValueError("tables and the trained modalities of kind table have different names")
        for name, columns in self.tables.items():
            if sorted(column.name for column in columns) != sorted(self.kinds[name].columns):
                raise ValueError(f"tables and kinds have different columns of {shown(name)}")
            if sum(len(column.centre) + 1 for column in columns) > self.network.feature_map_shape[0]:
                raise ValueError(f"{shown(name)} has more numbers than a feature map has channels")
        return self


class _Temperature(_Content):
    value: Annotated[float, Field(ge=0.01, le=100)]


class _Subset(_Content):
    modalities: Annotated[Names, Field(min_length=1)]
    scores: Annotated[list[Share], FailFast()]


class _Conformal(_Content):
    score: Annotated[str, AfterValidator(known_score)] = ONE_MINUS_P  # models exported before there was a choice
    subsets: Annotated[list[_Subset], FailFast()]


class _Change(Exactly):
    modalities: Annotated[Names, Field(min_length=1)]
    modality: Name
    n: Annotated[int, Field(ge=0, le=10**9)]
    mean_absolute_change: Share
    decisions_changed: Share
    abstentions_resolved: Share | None
    error_rate: Annotated[float, Field(gt=0, lt=1)]


class _Distances(_Content):
    training_scans: Annotated[int, Field(ge=0, le=10**9)]
    distances: Annotated[list[Annotated[float, Field(ge=0)]], FailFast()]


class CalibrationContent(_Content):
    """Content of calibration.json."""

    temperature: _Temperature
    conformal: _Conformal
    expected_changes: Annotated[list[_Change], FailFast()]
    outliers: dict[Name, _Distances]


class SeenContent(_Content):
    """Content of seen.json."""

    salt: Annotated[str, Field(pattern="^([0-9a-f]{2}){8,64}$")]
    rounds: Annotated[int, Field(ge=1, le=MOST_ROUNDS)]
    subjects: Roles
    scans: Roles


def content_of(path: Path, content: bytes, kind: type[BaseModel]) -> dict[str, Any]:
    """Parse and check a JSON file of a model.

    Args:
        path: of the file.
        content: its bytes.
        kind: schema of its content.

    Raises:
        BundleError: it does not fit; the message names key, value and what was expected.
    """
    value = parsed(path, content)
    try:
        kind.model_validate(value)
    except ValidationError as error:
        problems = [_describe(problem) for problem in error.errors(include_url=False)[:MOST_REPORTED]]
        more = error.error_count() - len(problems)
        raise BundleError(f"{path}: {'; '.join(problems)}{f'; and {more} more' if more else ''}. {AGAIN}") from error
    return dict(value)


def _describe(problem: Mapping[str, Any]) -> str:
    key = ".".join(str(p) if isinstance(p, int) or p.isidentifier() else shown(p) for p in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    message = re.sub(r"valid dictionary( or instance of \w+)?", "mapping", problem["msg"].removeprefix("Value error, "))
    return (f"{key} is {shown(problem['input'])}: " if key else "") + f"{message[0].lower()}{message[1:]}"


def check_calibration(path: Path, calibration: Mapping[str, Any], trained: list[str]) -> None:
    """Check that calibration.json names only trained modalities, and each set of them once.

    Raises:
        BundleError: it names others, or a set twice.
    """
    subsets = [(frozenset(entry["modalities"]), "") for entry in calibration["conformal"]["subsets"]]
    changes = [(frozenset(entry["modalities"]), entry["modality"]) for entry in calibration["expected_changes"]]
    for what, entries in (("conformal.subsets", subsets), ("expected_changes", changes)):
        if len(set(entries)) < len(entries):
            raise BundleError(f"{path}: {what} has the same modalities twice. {AGAIN}")
    named = set(calibration["outliers"]).union(*(modalities | {added} for modalities, added in subsets + changes))
    if unknown := named - {*trained, ""}:
        raise BundleError(f"{path} names {shown(min(unknown))}, which the model was not trained on. {AGAIN}")
    if any(added in modalities for modalities, added in changes):
        raise BundleError(f"{path}: expected_changes adds a modality that is already present. {AGAIN}")
