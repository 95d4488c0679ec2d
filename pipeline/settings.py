"""The settings of a run: YAML file < environment < command line, every key checked."""

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from cohort.manifest import CohortConfig
from cohort.splits import SplitConfig
from cohort.tables import suggest
from console.errors import InputError
from demo import generator_names, load_generator
from files.reading import UnusableFileError, read_bytes
from files.safe_yaml import MOST_YAML, safe_yaml
from pipeline.core.tracking_config import TrackingConfig
from pipeline.executors.config import ExecutorConfig
from pipeline.specs.baselines import BaselinesConfig
from pipeline.specs.classify import ClassifyConfig
from pipeline.specs.confounding import ConfoundingConfig
from pipeline.specs.contribute import ContributeConfig
from pipeline.specs.export import ExportConfig
from pipeline.specs.features import FeaturesConfig
from pipeline.specs.hypothesise import HypothesiseConfig
from pipeline.specs.impute import ImputeConfig
from pipeline.specs.joint import JointConfig
from pipeline.specs.judge import JudgeConfig
from pipeline.specs.predict import PredictConfig
from pipeline.specs.preprocess import PreprocessConfig
from pipeline.specs.pretrain import PretrainConfig
from pipeline.specs.recycle import RecycleConfig
from pipeline.specs.report import ReportConfig
from pipeline.specs.synthesise import SynthesiseConfig
from pipeline.specs.update import UpdateConfig
from preprocessing.normalise import NORMALISATIONS

ENVIRONMENT_PREFIX = "HYPERMM_"
MOST_NAMED = 20  # config files, in a message
DEEPEST_KEY, LONGEST_KEY = 8, 100  # names and characters of a dotted key


class Settings(BaseSettings):
    """Settings of a run: one section per stage, with the stage's name, and some general sections.

    The section `demo` holds all options of the demo cohort that `cohort.manifest` names; nothing if it names none.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    config_file: ClassVar[Mapping[str, Any]] = {}
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="names the workspace: runs/<name>")
    cohort: CohortConfig
    demo: dict[str, Any] = Field(default={}, validate_default=True, description="options of the demo cohort")
    split: SplitConfig = SplitConfig()
    preprocess: PreprocessConfig = PreprocessConfig()
    features: FeaturesConfig = FeaturesConfig()
    pretrain: PretrainConfig = PretrainConfig()
    classify: ClassifyConfig = ClassifyConfig()
    confounding: ConfoundingConfig = ConfoundingConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    contribute: ContributeConfig = ContributeConfig()
    joint: JointConfig = JointConfig()
    impute: ImputeConfig = ImputeConfig()
    hypothesise: HypothesiseConfig = HypothesiseConfig()
    update: UpdateConfig = UpdateConfig()
    synthesise: SynthesiseConfig = SynthesiseConfig()
    judge: JudgeConfig = JudgeConfig()
    recycle: RecycleConfig = RecycleConfig()
    report: ReportConfig = ReportConfig()
    executor: ExecutorConfig = ExecutorConfig()
    export: ExportConfig = ExportConfig()
    predict: PredictConfig = PredictConfig()
    tracking: TrackingConfig = TrackingConfig()

    @field_validator("cohort")
    @classmethod
    def _known_demo_cohort(cls, cohort: CohortConfig) -> CohortConfig:
        name = cohort.manifest
        if not isinstance(name, str) or name in generator_names():
            return cohort
        if os.path.exists(name):
            return cohort.model_copy(update={"manifest": Path(name)})
        raise _message_error(
            f"cohort.manifest: {name!r} is no file and no demo cohort {suggest(name, generator_names())}"
        )

    @field_validator("demo")
    @classmethod
    def _options_of_demo_cohort(cls, given: dict[str, Any], others: ValidationInfo) -> dict[str, Any]:
        name = others.data["cohort"].manifest if "cohort" in others.data else None
        if not isinstance(name, str):
            return {}
        config = load_generator(name).config
        if unknown := given.keys() - config.model_fields.keys():
            raise _message_error("\n".join(unknown_key(f"demo.{key}", demo_keys(name)) for key in sorted(unknown)))
        return config(**given).model_dump(mode="json")

    @model_validator(mode="after")
    def _normalisations_are_known(self) -> Self:
        for name, modality in self.cohort.modalities.items():
            if modality.normalise not in NORMALISATIONS:
                hint = suggest(modality.normalise, NORMALISATIONS)
                raise ValueError(f"cohort.modalities.{name}.normalise: {modality.normalise!r} is unknown {hint}")
        return self

    @model_validator(mode="after")
    def _missing_are_modalities(self) -> Self:
        for name in self.split.missing:
            if name not in self.cohort.modalities:
                raise ValueError(f"split.missing: {name!r} is no modality {suggest(name, self.cohort.modalities)}")
        if self.predict.maps and not self.features.keep_slices:
            raise ValueError("predict.maps needs the features of every slice: set features.keep_slices to true as well")
        kinds = {name: modality.kind for name, modality in self.cohort.modalities.items()}
        partners = self.preprocess.register_to or {}
        for name, other in partners.items():
            for each in (name, other):
                if kinds.get(each) != "volume":
                    known = suggest(each, [n for n, kind in kinds.items() if kind == "volume"])
                    raise ValueError(f"preprocess.register_to: {each!r} is no modality of volumes {known}")
            if other in partners:
                raise ValueError(f"preprocess.register_to: {name} to {other}, which is to be registered itself")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by priority: command line, environment, config file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=dict(cls.config_file))


def _message_error(message: str) -> PydanticCustomError:
    """Return a validation error that is shown without the key."""
    return PydanticCustomError("message", "{message}", {"message": message})


def load_settings(config_file: Path, overrides: Mapping[str, str]) -> Settings:
    """Read and check the settings of a run.

    Args:
        config_file: YAML.
        overrides: dotted key → value as typed, such as "pretrain.learning_rate" → "3e-4".

    Raises:
        InputError: no such file, not YAML, an unknown key (the message suggests the nearest) or an invalid value.
    """
    content = _read_config(config_file)
    _check_environment()
    nested = _nested(overrides)

    class _Settings(Settings):
        config_file: ClassVar = content

    try:
        settings = _Settings(**nested)
    except ValidationError as error:
        raise InputError(f"{config_file}, environment or command line:\n{explain(error)}") from error
    except (SettingsError, RecursionError) as error:
        raise InputError(f"environment: {error}; lists are written as JSON, e.g. [7, 1, 2]") from error
    if "demo" in nested and not isinstance(settings.cohort.manifest, str):
        cohorts = ", ".join(generator_names())
        raise InputError(f"--demo.…: cohort.manifest names no demo cohort, so nothing has these options ({cohorts})")
    return settings


def _nested(overrides: Mapping[str, str]) -> dict[str, Any]:
    """Convert dotted keys to nested sections.

    Raises:
        InputError: a key and one inside of it are both given, or a value is beyond the limits of `safe_yaml`.
    """
    nested: dict[str, Any] = {}
    for key, text in overrides.items():
        *path, last = key.split(".")
        if len(path) >= DEEPEST_KEY:
            raise InputError(unknown_key(key))
        section = nested
        for name in path:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise InputError(f"--{key}: {name} was given a value of its own as well")
        if isinstance(section.get(last), dict):
            raise InputError(f"--{key}: settings inside of {last} were given as well")
        try:
            section[last] = safe_yaml(text)
        except yaml.YAMLError:
            section[last] = text
        except UnusableFileError as error:
            raise InputError(f"--{key}: {error}") from error
    return nested


def _read_config(config_file: Path) -> dict[str, Any]:
    """Read a config file.

    Raises:
        InputError: no such file, not YAML, or no mapping of settings.
    """
    try:
        content = safe_yaml(read_bytes(config_file, most=MOST_YAML).decode("utf-8"))
    except OSError as error:
        folder = config_file.parent
        near = ", ".join(sorted(str(p) for p in folder.glob("*.yaml"))[:MOST_NAMED]) or "none"
        raise InputError(f"cannot read {config_file}: {error.strerror}. Config files there: {near}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{config_file} is not YAML: {error}") from error
    except UnusableFileError as error:
        raise InputError(f"{config_file} is no config file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{config_file} holds no settings; see configs/demo.yaml for an example")
    return content


def _check_environment() -> None:
    """Refuse misspelt environment variables, which would be ignored silently.

    Raises:
        InputError: a variable names no setting.
    """
    for variable in os.environ:
        if variable.upper().startswith(ENVIRONMENT_PREFIX):
            key = variable[len(ENVIRONMENT_PREFIX) :].lower().replace("__", ".")
            if key.split(".")[0] not in Settings.model_fields or key.count(".") >= DEEPEST_KEY:
                raise InputError(f"environment variable {variable[:LONGEST_KEY]}: {unknown_key(key)}")


def explain(error: ValidationError) -> str:
    """Return one line per problem, with the key as on the command line."""
    lines = []
    for problem in error.errors():
        key = ".".join(str(name) for name in problem["loc"])
        if problem["type"] == "extra_forbidden":
            lines.append(unknown_key(key))
        elif problem["type"] == "message":
            lines.append(problem["msg"])
        else:
            message = problem["msg"].removeprefix("Value error, ")
            whole = problem["type"] == "missing" or not key  # nothing was given, or it is about several settings
            given = "" if whole else f", not {json.dumps(problem['input'], default=str)}"
            lines.append((f"{key}: " if key else "") + f"{message[0].lower()}{message[1:]}{given}")
    return "\n".join(dict.fromkeys(lines))


def unknown_key(key: str, known: Sequence[str] = ()) -> str:
    """Return the message for an unknown key, with the nearest of the known keys (default: all)."""
    if len(key) > LONGEST_KEY:
        return f"there is no setting {key[:LONGEST_KEY]}…"
    known = known or known_keys()
    section, dot, option = key.partition(".")
    if section in generator_names():  # earlier versions had a section for each demo cohort
        return f"there is no setting {key}; did you mean demo{dot}{option}?"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not near:  # the right name in the wrong section
        near = [other for other in known if other.split(".")[-1] == key.split(".")[-1]][:1]
    return f"there is no setting {key}" + (f"; did you mean {near[0]}?" if near else "")


def known_keys() -> list[str]:
    """Return every setting as a dotted key, without the options of demo cohorts."""
    keys = []
    for name, field in Settings.model_fields.items():
        keys.append(name)
        if (section := _section(field)) is not None:
            keys += [f"{name}.{inner}" for inner, _ in _fields(section)]
    return keys


def demo_keys(name: str) -> list[str]:
    """Return every option of a demo cohort as a dotted key."""
    return [f"demo.{inner}" for inner, _ in _fields(load_generator(name).config)]


def describe_settings() -> str:
    """Return all settings with their defaults and descriptions, for --help-settings."""
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        if name == "demo":
            for cohort in generator_names():
                title = f"demo, where cohort.manifest is {cohort}"
                lines += _described(title, "demo", load_generator(cohort).config)
        elif (section := _section(field)) is not None:
            lines += _described(name, name, section)
    return "\n".join(lines).strip()


def _described(title: str, name: str, section: type[BaseModel]) -> Iterator[str]:
    yield f"\n{title}: {(section.__doc__ or '').splitlines()[0]}"
    for inner, detail in _fields(section):
        default = "required" if detail.is_required() else _default(detail)
        kinds = (detail.annotation, *get_args(detail.annotation))
        choices = " | ".join(str(choice) for kind in kinds for choice in _literals(kind))
        yield f"  --{name}.{inner} (default {default})" + (f" {choices}" if choices else "")
        yield f"      {detail.description or ''}"


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _fields(section: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Yield the settings of a section with dotted names; nested sections are expanded."""
    for name, field in section.model_fields.items():
        inside = _section(field)
        if inside is None:
            yield name, field
        else:
            yield from ((f"{name}.{inner}", detail) for inner, detail in _fields(inside))


def _literals(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    return json.dumps(value, default=str)
