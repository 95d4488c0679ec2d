"""A workspace says which format its files have."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.cli.workspace import FORMAT, FORMAT_FILE
from pipeline.store.base import read_record, write_record


@pytest.mark.parametrize("number", [None, FORMAT - 1, FORMAT + 1])
def test_another_format_is_refused(
    number: int | None, tmp_path: Path, picture_cohort: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, workspace = picture_cohort(tmp_path / "data", subjects=12), tmp_path / "run"
    argv = ["--config", str(config), "--workspace", str(workspace), "--stages", "cohort", "--quiet"]
    assert main(argv) == 0
    assert read_record(workspace / FORMAT_FILE) == {"format": FORMAT}
    assert main(argv) == 0
    if number is None:
        (workspace / FORMAT_FILE).unlink()
    else:
        write_record(workspace / FORMAT_FILE, {"format": number})
    assert main([*argv, "--dry-run"]) == 2
    assert f"this program writes format {FORMAT}" in capsys.readouterr().err
