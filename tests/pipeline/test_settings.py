"""A config file is read once, within limits, and loses nothing on the way."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from console.errors import InputError
from demo.phantoms import PhantomsConfig
from pipeline import settings
from pipeline.core.provenance import REPOSITORY, settings_yaml
from pipeline.deployment.bundle_settings import settings_of_model
from pipeline.settings import load_settings


def test_the_config_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reading could find something else, or a bomb."""
    content = (REPOSITORY / "configs" / "demo.yaml").read_bytes()
    read = []

    def once(path: Path, *, most: int) -> bytes:
        read.append((path, most))
        return content

    monkeypatch.setattr(settings, "read_bytes", once)
    found = load_settings(Path("nowhere.yaml"), {})
    assert read == [(Path("nowhere.yaml"), 1_000_000)]
    monkeypatch.undo()
    assert found.model_dump() == load_settings(REPOSITORY / "configs" / "demo.yaml", {}).model_dump()


@pytest.mark.parametrize("config", sorted((REPOSITORY / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_settings_are_those_of_the_file(config: Path) -> None:
    def within(part: object, whole: object) -> bool:
        if isinstance(part, dict):
            return isinstance(whole, dict) and all(within(value, whole[key]) for key, value in part.items())
        return part == whole or float(part) == whole  # type: ignore[arg-type]

    assert within(yaml.safe_load(config.read_text()), yaml.safe_load(settings_yaml(load_settings(config, {}))))


def test_sections_of_all_sources_are_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERMM_PRETRAIN__EPOCHS", "7")
    found = load_settings(REPOSITORY / "configs" / "demo.yaml", {"pretrain.learning_rate": "1e-4"})
    plain = load_settings(REPOSITORY / "configs" / "demo.yaml", {})
    assert (found.pretrain.epochs, found.pretrain.learning_rate) == (7, 1e-4)
    changed = {"epochs": 7, "learning_rate": 1e-4}
    assert found.model_dump() == {
        **plain.model_dump(), "pretrain": {**plain.pretrain.model_dump(), **changed}
    }  # fmt: skip


@pytest.mark.parametrize("key", ["memory_gb", "largest_extent_mm"])
def test_a_model_does_not_set_limits(tmp_path: Path, small_model: Callable[..., Path], key: str) -> None:
    loose = {"preprocess": {"spacing_mm": 1.5, key: 10_000}, "features": {"backbone": "vgg16"}}
    assert settings_of_model(small_model(tmp_path / "plain")).exists()
    with pytest.raises(InputError, match=f"preprocess.'{key}', which is not a model's to set"):
        settings_of_model(small_model(tmp_path / "loose", settings=loose))


# --- options of a demo cohort ---

DEMO = REPOSITORY / "configs" / "demo.yaml"


def test_the_section_demo_holds_all_options_of_the_cohort_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HYPERMM_DEMO__SEED", "3")
    loaded = load_settings(DEMO, {"demo.subjects": "90"})
    assert loaded.demo == PhantomsConfig(subjects=90, seed=3, pet_share=0.5).model_dump()
    (tmp_path / "again.yaml").write_text(settings_yaml(loaded))
    assert load_settings(tmp_path / "again.yaml", {}).model_dump() == loaded.model_dump()
    monkeypatch.undo()
    assert load_settings(DEMO, {"cohort.manifest": "/data/mine.csv"}).demo == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"demo.subjekts": "9"}, "there is no setting demo.subjekts; did you mean demo.subjects?"),
        ({"demo.picture_px": "64"}, "there is no setting demo.picture_px"),
        ({"demo.subjects": "many"}, 'demo.subjects: input should be a valid integer.*, not "many"'),
        ({"demo.pet_share": "2"}, "demo.pet_share: input should be less than or equal to 1, not 2"),
        ({"demo": "9"}, "demo: input should be a valid dictionary, not 9"),
        ({"cohort.manifest": "fantoms"}, r"cohort.manifest: 'fantoms' is no file .* \(did you mean 'phantoms'\?\)"),
        ({"cohort.manifest": "m.csv", "demo.subjects": "9"}, "cohort.manifest names no demo cohort"),
        ({"phantoms.subjects": "9"}, "there is no setting phantoms; did you mean demo?"),
        ({"cohort.manifest": "biopsies", "demo": "{fewest: 9, most: 8}"}, "fewest is 9 and most is 8"),
    ],
)
def test_a_wrong_option_of_a_demo_cohort_is_named(overrides: dict[str, str], message: str) -> None:
    config = REPOSITORY / "configs" / "biopsies.yaml" if "biopsies" in overrides.values() else DEMO
    with pytest.raises(InputError, match=message):
        load_settings(config, overrides)


def test_a_misspelt_variable_of_a_demo_cohort_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERMM_DEMO__SEEDS", "3")
    with pytest.raises(InputError, match=r"there is no setting demo.seeds; did you mean demo.seed\?"):
        load_settings(DEMO, {})


def test_a_folder_with_a_bare_name_is_no_demo_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    assert load_settings(DEMO, {"cohort.manifest": "pictures"}).cohort.manifest == Path("pictures")


def test_no_demo_cohort_is_imported_unless_it_is_named() -> None:
    words = "import sys; from pathlib import Path; from pipeline.settings import load_settings; "
    words += (
        "load_settings(Path('configs/adni.yaml'), {}); seen = {'demo.phantoms', 'demo.biopsies', 'scipy', 'nibabel'}; "
    )
    words += "assert not seen & set(sys.modules); load_settings(Path('configs/demo.yaml'), {}); "
    words += "assert 'demo.biopsies' not in sys.modules and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], cwd=REPOSITORY, check=True)
