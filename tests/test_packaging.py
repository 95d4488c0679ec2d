"""The pins agree: pyproject.toml says what, constraints.txt which version, environment.yml defers to both."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {normal(n): v for n, v in (line.split("==") for line in lines if line and not line.startswith("#"))}


NOT_FOR_EVERYBODY = {"nvflare"}  # of an extra that make does not install


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
        if name in NOT_FOR_EVERYBODY and find_spec(name) is None:
            continue
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


def make_wheel(folder: Path, name: str, version: str) -> Path:
    """A package with one module."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
def test_packages_are_installed_by_hash_and_an_exchanged_one_is_refused(tmp_path: Path) -> None:
    """The lines of the Makefile, with two small packages instead of all."""
    wanted = [
        make_wheel(tmp_path / "from", name, version) for name, version in (("tiny_a", "1.0+cpu"), ("tiny_b", "2"))
    ]
    wheels, hashes = tmp_path / "wheels", tmp_path / "hashes.txt"
    words = ["make", "hashes", f"PYTHON={sys.executable}", f"WHEELS={wheels}", f"HASHES={hashes}"]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    made = run(*words, "WANTED=" + " ".join(map(str, wanted)))
    assert made.returncode == 0, made.stderr
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in wanted]
    assert hashes.read_text().splitlines() == [
        f"tiny_a==1.0+cpu --hash=sha256:{expected[0]}",
        f"tiny_b==2 --hash=sha256:{expected[1]}",
    ]
    (line,) = [line.split() for line in (ROOT / "Makefile").read_text().splitlines() if "--require-hashes" in line]
    values = {"$(BIN)/python": sys.executable, "$(WHEELS)": str(wheels), "$(HASHES)": str(hashes)}
    install = [*(values.get(word, word) for word in line), "--target", str(tmp_path / "installed")]
    done = run(*install)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "installed" / "tiny_b.py").read_text() == "VERSION = '2'\n"
    shutil.rmtree(tmp_path / "installed")
    exchanged = wheels / wanted[1].name
    exchanged.write_bytes(exchanged.read_bytes() + b"\0")
    done = run(*install)
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "installed").exists()


def test_make_hashes_wants_what_make_installs() -> None:
    shown = subprocess.run(["make", "--dry-run", "hashes"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if " pip wheel " in line]
    wanted = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + line.split("--constraint constraints.txt ")[1]],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert wanted == [f"torch=={pins()['torch']}", ".[demo,dev]", *build]
