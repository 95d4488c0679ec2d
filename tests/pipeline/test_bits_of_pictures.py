"""16-bit pictures that do not say their depth: the cohort's largest value decides, the setting and the model too."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.small_study import SmallStudy
from PIL import Image

from pipeline.deployment.bundle import Bundle
from pipeline.deployment.bundle_settings import settings_of_model
from pipeline.settings import load_settings
from run_pipeline import main


class Study(SmallStudy):
    """Eight patients with 12-bit pictures of 16 bits, 14 bits in another modality; two have 8-bit pictures as well."""

    def __init__(self, folder: Path) -> None:
        self.folder, rows = folder, []
        random = np.random.default_rng(0)
        for number in range(8):
            for modality, top in (("red", 4095), ("blue", 16383)):
                values = random.integers(0, top, (24, 24), dtype=np.uint16)
                if number == 7:
                    values //= 64  # a dark one
                if number == 0:
                    values[0, 0] = top
                rows.append(self._row(number, modality, values))
            if number < 2:
                rows.append(self._row(number, "red", random.integers(0, 256, (24, 24, 3)).astype(np.uint8), "_8"))
        super().__init__(folder, rows, {name: {"kind": "image"} for name in ("red", "blue")})

    def _row(self, number: int, modality: str, values: np.ndarray, more: str = "") -> dict[str, object]:
        name = f"p{number}_{modality}{more}.png"
        Image.fromarray(values).save(self.folder / name)
        return {"subject": f"p{number}", "modality": modality, "path": name, "class": "ab"[number % 2]}

    def picture(self, scan: str) -> np.ndarray:
        return np.asarray(Image.open(self.folder / "run" / "preprocess" / scan / "picture.png"))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def test_the_largest_value_of_a_modality_decides_for_all_its_pictures(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.run() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "red: 8 16-bit pictures do not say how many bits their camera has; 12 are taken, since their largest" in said
    assert "value is 4,095 (1 of them would fit into fewer; are those of another camera?). If it has other bits" in said
    assert "blue: 8 16-bit pictures do not say how many bits their camera has; 14 are taken" in said
    records = study.records()
    assert {scan: record["bits"] for scan, record in records.items() if "p1" in scan or "p7" in scan} == {
        "p1_blue": 14, "p1_red": 12, "p1_red_2": 8, "p7_blue": 14, "p7_red": 12,
    }  # fmt: skip
    assert abs(study.picture("p1_red").mean() - 127.5) < 10
    assert study.picture("p7_red").max() == 4  # 63 of 4,095
    assert records["p1_red_2"]["remarks"] == []
    assert "does not say how many bits it uses; 12 are taken" in records["p1_red"]["remarks"][0]
    scans = pd.read_csv(study.folder / "run" / "cohort" / "scans.csv")
    assert dict(zip(scans["modality"], scans["bits"], strict=True)) == {"red": 12, "blue": 14}


def test_the_setting_goes_before_it_and_redoes_one_modality(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.run() == 0
    before = study.records()
    assert study.run("--cohort.modalities.red.bits", "14") == 0
    after = study.records()
    assert {scan for scan in after if after[scan]["written"] != before[scan]["written"]} == {
        scan for scan in before if "red" in scan
    }
    assert (after["p1_red"]["bits"], after["p1_red_2"]["bits"]) == (14, 8)
    assert study.run("--cohort.modalities.red.bits", "10") == 3
    assert "for 10 bits, at most 1,023. Is it of another camera?" in (study.folder / "run/failures.csv").read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("{kind: image, bits: 7}", "equal to 8"),
        ("{kind: volume, bits: 12}", "bits: 12 is for pictures"),
    ],
)
def test_bits_that_cannot_be_are_refused(
    study: Study, setting: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.run("--cohort.modalities.red", setting, "--dry-run") == 2
    assert message in capsys.readouterr().err


def test_nothing_is_guessed_from_new_patients(study: Study) -> None:
    """A picture is read alike, whoever comes along with it."""
    assert study.run("--cohort.label", "null") == 3
    reasons = pd.read_csv(study.folder / "run" / "failures.csv").set_index("scan")["reason"]
    assert set(reasons.index) == {f"p{n}_{m}" for n in range(8) for m in ("red", "blue")}
    assert "its largest value, 63, fits into 8. Set cohort.modalities.….bits" in reasons["p7_red"]
    assert study.run("--cohort.label", "null", "--cohort.modalities.red.bits", "12") == 3
    assert study.records()["p7_red"]["bits"] == 12


def test_a_model_carries_the_bits(
    study: Study, small_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    picture = {"kind": "image", "skull_strip": True}
    kinds = {"pet": picture | {"bits": 12}, "t1": picture | {"bits": None}}
    sections = {"preprocess": {"spacing_mm": 2.0}, "features": {"backbone": "vgg11", "random_seed": 3}}
    changes = {"kinds": kinds, "settings": sections, "weights": {"preprocess": None, "features": "random"}}
    model = small_model(study.folder / "model", **changes)
    assert Bundle.read(model).kinds == kinds
    settings = load_settings(settings_of_model(model), {})
    assert {name: each.bits for name, each in settings.cohort.modalities.items()} == {"pet": 12, "t1": None}
    table = pd.read_csv(study.folder / "cohort.csv")
    table.assign(modality=table["modality"].map({"red": "pet", "blue": "t1"})).to_csv(study.folder / "new.csv")
    words = ["--model", str(model), "--cohort", str(study.folder / "new.csv"), "--workspace", str(study.folder / "n")]
    assert main([*words, "--cohort.modalities.pet.bits", "14"]) == 2
    assert "the model small was trained with pet as" in capsys.readouterr().err
    main([*words, "--cohort.modalities.t1.bits", "14", "--dry-run"])  # it has learnt from no such picture
    assert "was trained with t1 as" not in capsys.readouterr().err
