"""A stranger's model, changed at random with its checksums made anew: words, or a whole and finite answer."""

import contextlib
import json
import math
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from helpers.exported_joint import exported_joint

from console.errors import InputError
from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_configs import inference, settings
from pipeline.deployment.bundle_settings import settings_of_model
from pipeline.deployment.joint_answer import joint_answer
from pipeline.deployment.predictor import NoPredictionError, Predictor, predict_patient
from pipeline.settings import load_settings
from reporting.patient_page import patient_page, worklist_page
from reporting.patient_table import SCHEMA, patients_csv

pytestmark = pytest.mark.usefixtures("one_thread")
JSON = (
    "calibration.json", "calibration.json", "joint.json", "joint.json", "seen.json", "configs/inference.json",
    "configs/metadata.json",
)  # fmt: skip
TENSORS = ("models/model.safetensors", "models/joint.safetensors", "outliers.safetensors")
NUMBERS = (float("nan"), float("inf"), -float("inf"), -1, 0, 0.5, 1e308, 10**9, 2**63, 10**30, -(10**18), True)
OTHERS = (None, [], {}, "", "x", "1", [1], {"a": 1}, "\x1b]0;x\x07", "\ud800", "<script>", "a" * 5000, "../..", "a\nb")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in a JSON document, the whole of it too."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def change_json(draw: random.Random, path: Path) -> str:
    """Exchange, remove, double or deepen one value, or write a key twice."""
    whole = json.loads(path.read_text("utf-8"))
    *way, last = draw.choice(list(places(whole))[1:])
    inside = whole
    for step in way:
        inside = inside[step]
    how = draw.choice(("number", "other", "remove", "add", "deep", "twice"))
    if how == "remove":
        del inside[last]
    elif how == "add" and isinstance(inside, list):
        inside.append(inside[last])
    elif how == "add":
        inside[draw.choice(("more", "", "\x1b[31m"))] = inside[last]
    else:
        inside[last] = draw.choice(NUMBERS if how == "number" else OTHERS)
    text = json.dumps(whole)
    if how == "deep":
        text = json.dumps({"deep": whole}).replace(": ", ": " + "[" * 5000, 1).replace("}", "]" * 5000 + "}", 1)
    if how == "twice" and isinstance(whole, dict):
        text = text[:-1] + f", {json.dumps(next(iter(whole)))}: 1}}"
    path.write_text(text, "utf-8")
    return f"{how} {(*way, last)}"


def change_tensor(draw: random.Random, path: Path) -> str:
    """Spoil one number, a shape, a type, a name, or the header."""
    tensors = safetensors.numpy.load_file(path)
    name = draw.choice(sorted(tensors))
    tensor, how = tensors[name].copy(), draw.choice(("number", "shape", "type", "rename", "more", "header", "cut"))
    tensors[name] = tensor
    if how == "number":
        tensor.flat[draw.randrange(tensor.size)] = draw.choice((np.nan, np.inf, -np.inf, 3e38, -3e38))
    elif how == "shape":
        tensors[name] = tensor[..., None] if draw.random() < 0.5 else tensor.reshape(-1)[:-1].copy()
    elif how == "type":
        tensors[name] = tensor.astype(draw.choice((np.float64, np.float16, np.int32, np.bool_)))
    elif how == "rename":
        tensors["strange"] = tensors.pop(name)
    elif how == "more":
        tensors["strange"] = tensor
    content = safetensors.numpy.save(tensors)
    if how == "header":
        size, header = draw.choice((0, 1, 10**6, 2**63)), draw.choice((b"{}", b"[" * 5000, b"\xff" * 8, content[8:]))
        content = struct.pack("<Q", size) + header
    path.write_bytes(content[: draw.randrange(len(content))] if how == "cut" else content)
    return f"{how} {name}"


def change_yaml(draw: random.Random, path: Path) -> str:
    """Say more or something else, or let a few bytes stand for many."""
    settings = yaml.safe_load(path.read_text("utf-8"))
    how = draw.choice(("more", "other", "list", "bomb", "deep", "no yaml", "backbone", "name"))
    if how == "more":
        settings[draw.choice(("tracking", "export", "cohort"))] = {"manifest": "/etc/passwd"}
    elif how == "other":
        settings[draw.choice(sorted(settings))] = draw.choice(OTHERS + NUMBERS)
    elif how == "backbone":
        settings["features"]["backbone"] = "timm:hf-hub:somebody/network"
    elif how == "name":
        settings["name"] = "mine"
    text = yaml.safe_dump(settings)
    bomb = "a: &a [x]\n" + "".join(
        f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    whole = {"list": "- a\n", "bomb": bomb, "deep": "[" * 3000, "no yaml": "a: [\x00"}
    path.write_text(whole.get(how, text), "utf-8", errors="surrogatepass")
    return how


def change_file(draw: random.Random, folder: Path) -> str:
    """Put something else in the place of a file, or another one beside it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    path = draw.choice(files)
    how = draw.choice(("pipe", "device", "link", "folder", "gone", "cut", "bits", "huge", "loop", "beside"))
    content = path.read_bytes()
    if how not in ("cut", "bits", "beside"):
        path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how in ("device", "link", "loop"):
        path.symlink_to({"device": "/dev/zero", "link": "/etc/passwd", "loop": path.name}[how])
    elif how == "folder":
        path.mkdir()
    elif how == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif how == "bits":
        path.write_bytes(bytes(byte ^ (draw.random() < 0.1) for byte in content))
    elif how == "huge":
        with path.open("wb") as stream:
            stream.truncate(1 << 40)
    elif how == "beside":
        (folder / "configs" / "logging.conf").write_text("[loggers]")
    return f"{how} {path.relative_to(folder)}"


def follow_model(folder: Path) -> None:
    """Write the other configs as this program would for such a model.json."""
    model = json.loads((folder / "configs" / "model.json").read_text("utf-8"))
    said = settings(model["name"], model["kinds"], model["settings"], model["weights"])
    (folder / "configs" / "settings.yaml").write_text(yaml.safe_dump(said), "utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(inference(model["name"], model["network"])), "utf-8")


def told_or_answered(folder: Path) -> tuple[str, dict[str, Any] | None]:
    """What reading a model and asking it of one patient ends in; anything but words and an answer escapes."""
    try:
        load_settings(settings_of_model(folder), {})
        bundle = Bundle.read(folder)
        reader = Predictor(bundle, bundle.network(), error_rate=0.1, outlier_rate=0.3)
        feature_maps = torch.randn(2, 6, 2, 2, generator=torch.Generator().manual_seed(0))
        bundle.seen("somebody", ["cd" * 32])
        scans = [(f"s_{name}", name) for name in (bundle.trained * 2)[:2]]
        joint = joint_answer(reader, scans[:1], feature_maps[:1], {"age": np.array([[0.5]])}, draws=20)
        return "", {
            **predict_patient(reader, scans, feature_maps),
            "joint": None if joint is None else joint.facts,
            "classes": bundle.classes,
            "trained": bundle.trained,
        }
    except (InputError, NoPredictionError) as error:
        return str(error), None


def check_answer(answer: dict[str, Any]) -> None:
    """Whole and finite, and the pages can be made of it."""
    classes, trained = answer.pop("classes"), answer.pop("trained")
    shares = [answer["probabilities"], answer["uncalibrated"], *(scan["contribution"] for scan in answer["scans"])]
    for share in shares:
        assert list(share) == list(classes)
        assert all(math.isfinite(value) for value in share.values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert set(answer["set"]) <= set(classes)
    assert all(scan["outlier"] is None or math.isfinite(scan["outlier"]["distance"]) for scan in answer["scans"])
    patient = {**answer, "observation": "p", "subject": "p", "session": "", "notes": []}
    patient["scans"] = [{**scan, "used": True, "reason": ""} for scan in answer["scans"]]
    content = {
        "schema": SCHEMA,
        "made": {"time": "2026-01-01T00:00:00+00:00", "model": "m", "model_version": "1", "model_sha256": "0"},
        "classes": list(classes), "modalities": list(trained), "error_rate": 0.1, "temperature": 1.0,
        "patients": [patient], "refused": [],
    }  # fmt: skip
    json.dumps(content, allow_nan=False)
    patients_csv(content)
    assert "<script>" not in patient_page(content, patient, pictures={}) + worklist_page(content, {})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., Path]) -> Path:
    return small_model(tmp_path_factory.mktemp("whole") / "bundle", joint=exported_joint())


def test_the_model_itself_answers(whole: Path) -> None:
    told, answer = told_or_answered(whole)
    assert (told, answer is None) == ("", False)
    check_answer(answer)


@pytest.mark.parametrize("seed", range(160))
def test_a_changed_model_ends_in_words_or_in_an_answer(
    whole: Path, tmp_path: Path, sums_anew: Callable[[Path], None], seed: int
) -> None:
    draw = random.Random(seed)
    folder = tmp_path / "bundle"
    shutil.copytree(whole, folder)
    kind = ("agreed", "json", "tensor", "yaml", "file")[seed % 5]
    if kind == "file":
        what = change_file(draw, folder)
    elif kind == "agreed":
        what = change_json(draw, folder / "configs" / "model.json")
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            follow_model(folder)
    else:
        change: Any = {"json": change_json, "tensor": change_tensor, "yaml": change_yaml}[kind]
        name = draw.choice({"json": JSON, "tensor": TENSORS, "yaml": ("configs/settings.yaml",)}[kind])
        what = f"{name}: {change(draw, folder / name)}"
    if (folder / "checksums.json").is_file() and "checksums" not in what and "huge" not in what:
        sums_anew(folder)
    told, answer = told_or_answered(folder)
    assert bool(told) != bool(answer), what
    if answer:
        check_answer(answer)
    else:
        assert len(told) < 2000, what
        assert told.replace("\n", "").isprintable(), (what, told)  # several settings, a line each
        assert " " in told
        assert "Traceback" not in told
