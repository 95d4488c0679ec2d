"""The pins agree: pyproject.toml says what, constraints.txt which version, environment.yml defers to both."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(n): v for n, v in (line.split("==") for line in lines if line and not line.startswith("#"))}


def declared() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [item for group in groups for item in group]


def test_every_declared_package_has_one_exact_pin_and_the_version_stands_in_one_place() -> None:
    for item in declared():
        name = item.split("[")[0]
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z,]+\])?", item), f"{item}: versions belong into constraints.txt"
        assert normal(name) in pins(), name
    assert pins()["torch"] == "2.13.0"


def test_what_is_installed_here_is_what_is_pinned() -> None:
    from importlib.metadata import version

    for item in declared():
        name = item.split("[")[0]
        assert version(name).split("+")[0] == pins()[normal(name)], name


def test_environment_yml_defers_to_the_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert environment["dependencies"][:2] == [f"python={python.removeprefix('>=')}", "pip"]
    (pip,) = (item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip == ["--constraint constraints.txt", "--editable .[demo,dev]"]


def test_no_address_of_a_package_host_is_committed() -> None:
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile"):
        assert not re.search(r"https?://|index-url", (ROOT / name).read_text()), name


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_loads(config: Path) -> None:
    from pipeline.settings import load_settings

    settings = load_settings(config, {})
    assert settings.name == config.stem
    assert settings.cohort.positive
