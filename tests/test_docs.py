"""The scripts in docs/ do what the pages say, and the pages name nothing that is not there."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from baselines.names import KEYS, SIMPLE_NAMES
from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.tables import read_table
from console.exit_codes import BAD_INPUT, BUG, DONE, INTERRUPTED, READER_GONE, SOME_SCANS_FAILED
from demo import __main__ as demo
from demo import generator_names, load_generator
from intake import __main__ as intake
from pipeline.cli import derivatives, federation, watermark
from pipeline.cli.main import main
from pipeline.cli.options import parse, parser, stage_list
from pipeline.deployment.bundle_layout import NEEDED as BUNDLE
from pipeline.deployment.bundle_layout import OPTIONAL
from pipeline.settings import demo_keys, known_keys, load_settings
from pipeline.specs.baselines import GanConfig
from pipeline.specs.registry import STAGES

ROOT = Path(__file__).resolve().parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
MOST_LINES = 250  # of a page; a longer one is two pages
HEADER = "Image Data ID,Subject,Group,Sex,Age,Visit,Modality,Description,Type,Acq Date,Format,Downloaded"
T1, FDG = "MT1; GradWarp; N3m", "Coreg, Avg, Std Img and Vox Siz, Uniform Resolution"


@pytest.fixture
def run_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the code block that follows the comment `<!-- name -->` in a page, as a reader would in `tmp_path`."""

    def run(page: str, name: str, *words: str) -> str:
        found = re.search(rf"<!-- {re.escape(name)} -->\n```python\n(.*?)```", PAGES[page], re.DOTALL)
        assert found, f"docs/{page} has no code block {name}"
        (tmp_path / name).write_text(found[1], "utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(name, run_name="__main__")
        return capsys.readouterr().out

    return run


class Download:
    """A download from the IDA: a tree of images and its table."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lines, self.number = folder, [HEADER], 1000

    def add(
        self,
        subject: str,
        group: str,
        modality: str,
        date: str,
        *,
        description: str = "",
        age: int = 70,
        old: bool = False,
    ) -> None:
        """One image; `old` for the layout without a folder of the image's id, and ids without their I."""
        self.number += 1
        description = description or {"MRI": T1, "PET": FDG}[modality]
        words = re.sub(r"[; ]", "_", description)
        year, month, day = date.split("-")
        series = f"S{self.number}" if old else f"I{self.number}"
        place = self.folder / "ADNI" / subject / words / f"{date}_10_55_25.0" / series
        place.mkdir(parents=True)
        short = {"MRI": "MR", "PET": "PT"}[modality]
        name = f"ADNI_{subject}_{short}_{words}_Br_20130206105826694_S1813_I{self.number}.nii"
        (place / name).write_text(name)
        self.lines.append(
            f'"{"" if old else "I"}{self.number}","{subject}","{group}","F","{age}","sc","{modality}","{description}",'
            f'"Processed","{int(month)}/{int(day)}/{year}","NiFTI","11/21/2025"'
        )

    def write(self) -> str:
        """Write the table; returns its name."""
        (self.folder / "table.csv").write_text("\n".join(self.lines) + "\n")
        return "table.csv"


@pytest.fixture
def adni(tmp_path: Path) -> Download:
    download = Download(tmp_path)
    for number in range(4):
        for group in ("CN", "AD"):
            subject = f"{number:03d}_S_{1000 if group == 'CN' else 2000}"
            download.add(subject, group, "MRI", "2013-02-01", age=70 + number)
            download.add(subject, group, "PET", "2013-03-01", age=71 + number)
    return download


def manifest(folder: Path, name: str, config: CohortConfig) -> pd.DataFrame:
    return check_manifest(read_table(folder / name), folder=folder, config=config, smallest_class=3)


ADNI = CohortConfig(modalities={"MRI": ModalityConfig(), "PET": ModalityConfig()}, positive="AD")


def chosen(scans: pd.DataFrame, subject: str) -> set[str]:
    """The image ids of a subject's scans."""
    return {re.findall(r"I(\d+)\.nii", path)[0] for path in scans.loc[scans["subject"] == subject, "path"]}


def test_adni_manifest_is_valid_and_holds_every_pair(adni, run_script):
    said = run_script("adni.md", "adni_manifest.py", adni.write())
    scans = manifest(adni.folder, "my_cohort.csv", ADNI)
    assert "16 scans of 8 subjects" in said
    assert scans["modality"].value_counts().to_dict() == {"MRI": 8, "PET": 8}
    row = scans[scans["subject"] == "003_S_2000"].iloc[0]
    assert (row["label"], row["age"], row["sex"]) == ("AD", "73", "F")
    assert scans.groupby("subject")["age"].nunique().eq(1).all()  # of the first of the two, so that they agree


def test_adni_manifest_takes_the_mri_and_pet_closest_in_time(adni, run_script):
    first = adni.number
    for modality, date in (("MRI", "2012-01-01"), ("MRI", "2014-06-01"), ("PET", "2014-05-20"), ("PET", "2016-01-01")):
        adni.add("100_S_0001", "AD", modality, date)
    run_script("adni.md", "adni_manifest.py", adni.write())
    scans = manifest(adni.folder, "my_cohort.csv", ADNI)
    assert chosen(scans, "100_S_0001") == {str(first + 2), str(first + 3)}


def test_adni_manifest_keeps_one_scan_of_those_without_a_pair(adni, run_script):
    first = adni.number
    adni.add("100_S_0001", "AD", "MRI", "2014-01-01")
    adni.add("100_S_0001", "AD", "MRI", "2012-01-01")
    adni.add("100_S_0002", "CN", "PET", "2012-01-01")
    adni.add("100_S_0003", "CN", "PET", "2010-01-01")
    adni.add("100_S_0003", "CN", "MRI", "2012-01-01")  # two years later: no pair
    run_script("adni.md", "adni_manifest.py", adni.write())
    scans = manifest(adni.folder, "my_cohort.csv", ADNI)
    assert chosen(scans, "100_S_0001") == {str(first + 2)}
    assert chosen(scans, "100_S_0002") == {str(first + 3)}
    assert chosen(scans, "100_S_0003") == {str(first + 5)}


def test_adni_manifest_leaves_out_other_groups_other_tracers_and_images_that_were_not_downloaded(adni, run_script):
    adni.add("100_S_0001", "MCI", "MRI", "2013-02-01")
    adni.add("100_S_0002", "CN", "PET", "2013-02-01", description=f"AV45 {FDG}")
    adni.add("100_S_0003", "CN", "MRI", "2013-02-01", description="Axial FLAIR")
    adni.lines.append(f'"I7","100_S_0004","CN","F","70","sc","MRI","{T1}","Processed","2/1/2013","NiFTI",""')
    said = run_script("adni.md", "adni_manifest.py", adni.write())
    assert "1 images of the table have no file" in said
    assert set(manifest(adni.folder, "my_cohort.csv", ADNI)["subject"].str[:3]) == {"000", "001", "002", "003"}


def test_adni_manifest_reads_older_downloads_and_ids_without_their_letter(adni, run_script):
    adni.add("100_S_0001", "CN", "MRI", "2013-02-01", description="MPR; GradWarp; B1 Correction; N3; Scaled", old=True)
    run_script("adni.md", "adni_manifest.py", adni.write())
    assert chosen(manifest(adni.folder, "my_cohort.csv", ADNI), "100_S_0001") == {str(adni.number)}


def test_adni_manifest_reads_iso_dates_spaces_and_ids_that_are_numbers(adni, run_script):
    adni.write()
    text = (adni.folder / "table.csv").read_text().replace("Group,", "Group ,").replace('"CN"', '"CN "')
    text = re.sub(r'"(\d+)/(\d+)/2013"', lambda found: f'"2013-{int(found[1]):02d}-{int(found[2]):02d}"', text)
    text = re.sub(r'^"I(\d+)"', r'"\1.0"', text, flags=re.MULTILINE)
    (adni.folder / "table.csv").write_text("\ufeff" + text, "utf-8")
    said = run_script("adni.md", "adni_manifest.py", "table.csv")
    assert "groups of the table: {'CN': 8, 'AD': 8}; taken: CN, AD" in said
    assert len(manifest(adni.folder, "my_cohort.csv", ADNI)) == 16


def test_adni_manifest_leaves_out_images_without_a_date_or_a_description(adni, run_script):
    adni.add("100_S_0001", "CN", "MRI", "2013-02-01")
    adni.lines[-1] = adni.lines[-1].replace('"2/1/2013"', '"NA"')
    adni.add("100_S_0002", "CN", "MRI", "2013-02-01")
    adni.lines[-1] = adni.lines[-1].replace(f'"{T1}"', "")
    said = run_script("adni.md", "adni_manifest.py", adni.write())
    assert "1 images of the table have no Acq Date or no Subject and are left out" in said
    assert "16 scans of 8 subjects" in said


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            '"2/1/2013"',
            '"13.02.2013"',
            r"8 dates are neither month/day/year nor like 2013-02-01, .* image I\d+ is",
        ),
        ('"2/1/2013"', '"13/2/2013"', "8 dates are neither .* is '13/2/2013'; if a spreadsheet has put the day first"),
        (
            "Acq Date",
            "Date",
            "table.csv has no column Acq Date; it has Image Data ID, .*Download its CSV again",
        ),
        (",", ";", "table.csv has no column Image Data ID, Subject"),
        ("MT1", "XX", "my_cohort.csv: 8 scans"),
        ('"MRI"', '"mr"', "my_cohort.csv: 8 scans"),
        ('"AD"', '"Patient"', "my_cohort.csv: 8 scans"),
        ('"I1', '"I9', "no image is left; unpack the archives"),
    ],
)
def test_adni_manifest_ends_in_a_sentence(adni, run_script, old, new, sentence):
    adni.write()
    (adni.folder / "table.csv").write_text((adni.folder / "table.csv").read_text().replace(old, new))
    try:
        said = run_script("adni.md", "adni_manifest.py", "table.csv")
    except SystemExit as ended:
        said = str(ended)
    assert re.search(sentence, said, re.DOTALL), said


def test_adni_manifest_without_the_groups_says_so(adni, run_script):
    adni.write()
    text = (adni.folder / "table.csv").read_text().replace('"AD"', '"MCI"').replace('"CN"', '"EMCI"')
    (adni.folder / "table.csv").write_text(text)
    with pytest.raises(SystemExit, match="no image of CN or AD has a Modality and Description as in DESCRIPTIONS"):
        run_script("adni.md", "adni_manifest.py", "table.csv")


@pytest.fixture
def breakhis(tmp_path: Path) -> Path:
    """The folder of a small BreakHis: ten patients on eight slides, two pictures at each of two magnifications."""
    benign = (("A", "22549AB"), ("A", "22549CD"), ("F", "25197"), ("TA", "16184"), ("PT", "21998AB"))
    malignant = (("DC", "13412"), ("LC", "13412"), ("PC", "15704"), ("DC", "2773"), ("MC", "10147"))
    for tumour, slides in (("B", benign), ("M", malignant)):
        for tumour_type, slide in slides:
            name = f"SOB_{tumour}_{tumour_type}-14-{slide}"
            for magnification in (40, 400):
                place = tmp_path / "BreaKHis_v1" / name / f"{magnification}X"
                place.mkdir(parents=True)
                for number in (1, 2):
                    file = f"{name}-{magnification}-{number:03d}.png"
                    (place / file).write_text(file)
    (tmp_path / "BreaKHis_v1" / "SOB_copy.png").touch()
    return tmp_path / "BreaKHis_v1"


def read_breakhis(folder: Path, *more: str) -> pd.DataFrame:
    """The scans of the command that the page gives, without the stages that compute something."""
    workspace = folder.parent / "run"
    words = ["--config", str(ROOT / "configs" / "breakhis.yaml"), "--cohort", str(folder), "--quiet"]
    assert main([*words, "--workspace", str(workspace), "--stages", "cohort,split", *more]) == 0
    return pd.read_csv(workspace / "cohort" / "scans.csv")


def test_breakhis_is_read_from_its_folder_and_keeps_a_slide_on_one_side(breakhis, capsys):
    scans = read_breakhis(breakhis)
    assert "SOB_copy.png left out: not a BreakHis name" in capsys.readouterr().out
    assert set(scans["observation"]) >= {"14-13412_DC", "14-13412_LC", "14-22549_A-AB", "14-22549_A-CD"}
    assert scans.groupby("observation").size().to_list() == 10 * [4]
    assert scans.groupby("label")["tumour_type"].agg(set).to_dict() == {
        "benign": {"A", "F", "PT", "TA"}, "malignant": {"DC", "LC", "MC", "PC"}
    }  # fmt: skip
    splits = pd.read_csv(breakhis.parent / "run" / "split" / "splits.csv")
    assert splits["repeat"].nunique() == 5
    assert splits["subject"].nunique() == 8
    assert splits.groupby(["repeat", "subject"]).size().eq(1).all()


def test_breakhis_takes_as_many_patients_of_each_class_as_asked_for(breakhis):
    scans = read_breakhis(breakhis, "--cohort.balanced", "[4, 4]")
    assert scans.groupby("label")["observation"].nunique().to_dict() == {"benign": 4, "malignant": 4}


def test_transforms_of_the_page_run_in_a_compose_with_monai(tmp_path, run_script):
    volume = np.zeros((40, 44, 36), np.float32)
    volume[8:30, 10:34, 6:30] = np.random.default_rng(0).uniform(1, 2, (22, 24, 24))
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([1.5, 1.5, 1.5, 1])), tmp_path / "scan.nii.gz")
    said = run_script("extend.md", "transforms.py", "scan.nii.gz", "--stripped")
    assert said.strip().endswith("[2.0, 2.0, 2.0] 1.0")


def test_every_option_and_setting_that_the_pages_name_exists():
    options = {o for action in parser()._actions for o in action.option_strings}
    pip = {"--index-url", "--constraint", "--editable", "--dest", "--no-index", "--find-links", "--require-hashes"}
    slurm = {"--job-name", "--array", "--cpus-per-task", "--mem", "--time", "--constraint=a100"}
    dask = {"--host", "--port", "--nthreads", "--no-dashboard", "--local-directory"}
    gpu = {"--quick", "--kit", "--json", "--wheels", "--no-deps", "--target"}  # of the GPU check, its kit and pip
    elsewhere = {*pip, *slurm, *dask, *gpu, "--config_file", "--bundle_root", "--logdir", "--backend-store-uri"}
    ways = dict(next(action.choices for action in intake.parser()._actions if action.dest == "way"))
    options |= {o for action in derivatives.parser()._actions for o in action.option_strings}
    ways |= next(action.choices for action in watermark.parser()._actions if action.dest == "way")
    ways |= next(action.choices for action in federation.parser()._actions if action.dest == "way")
    options |= {o for way in ways.values() for action in way._actions for o in action.option_strings}
    cohorts = [demo.parser(name, load_generator(name).config) for name in generator_names()]
    options |= {o for cohort in cohorts for action in cohort._actions for o in action.option_strings}
    known = {*known_keys(), *(key for name in generator_names() for key in demo_keys(name))}
    known |= {"split.missing.PET", "cohort.modalities.PET.normalise", "cohort.modalities.PET.trust"}
    for name, page in PAGES.items():
        for word in re.findall(r"(?<![\w-])--[a-z][\w.-]*", page):
            key = word.removeprefix("--").rstrip(".")
            assert word in options | elsewhere | {"--stripped"} or key in known, f"{name}: {word}"
        sections = "|".join(stage.name for stage in STAGES)
        for key in set(re.findall(rf"`((?:{sections})\.[a-z_]+)", page)) - {
            "report.html",
            "baselines.md",
            "joint.json",
        }:
            assert any(other == key or other.startswith(f"{key}.") for other in known), f"{name}: {key}"


def test_every_command_of_the_pages_is_understood():
    lines = [
        line.strip()
        for page in (*PAGES.values(), (ROOT / "README.md").read_text("utf-8"))
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if line.strip().startswith("python run_pipeline.py")
    ]
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(re.split(r" \|\| | && ", line)[0], comments=True)
        options, overrides = parse(words[2:])
        assert stage_list(options.stages or "report", "--stages"), line
        if options.model is None:
            load_settings(ROOT / (options.config or "configs/demo.yaml"), overrides)
        else:  # the settings lie in the model
            assert {key for key in overrides if key != "predict.model"} <= set(known_keys()), line


def test_every_intake_command_of_the_pages_is_understood():
    lines = [
        line
        for page in PAGES.values()
        for block in re.findall(r"^ *```(?:bash|sh)\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if line.startswith("python -m intake")
    ]
    ways = {intake.parser().parse_args(shlex.split(line)[3:]).way for line in lines}
    assert ways == {"dicom", "pseudonym", "bids", "lgg"}


def test_every_demo_command_of_the_pages_is_understood():
    lines = [line for page in PAGES.values() for line in re.findall(r"^python -m demo.*", page, re.MULTILINE)]
    named = [shlex.split(line, comments=True)[3:] for line in lines]
    assert [] in named
    for name, *words in filter(None, named):
        generator = load_generator(name)
        given = vars(demo.parser(name, generator.config).parse_args(words))
        assert generator.config(**{key: value for key, value in given.items() if key in generator.config.model_fields})


def test_every_link_leads_somewhere():
    def anchors(page: str) -> set[str]:
        headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.MULTILINE)
        return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")):
        for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
            target = page.parent / path if path else page
            assert target.exists(), f"{page}: {path}"
            assert not anchor or anchor in anchors(target.read_text("utf-8")), f"{page}: {path}#{anchor}"


def test_every_page_that_the_code_names_is_there():
    rooms = ("cohort", "preprocessing", "models", "baselines", "evaluation", "devices", "files", "pipeline", "configs")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in {".py", ".j2", ".yaml"}]
    sources += [*ROOT.glob("*.py"), *ROOT.glob("*.toml"), ROOT / "Makefile"]
    named = {(path, page) for path in sources for page in re.findall(r"\bdocs/[\w/-]+", path.read_text("utf-8"))}
    assert len(named) > 5
    for path, page in named:
        assert list(ROOT.glob(f"{page}*")), f"{path}: {page}"


def test_no_page_is_long():
    for name, page in PAGES.items():
        assert len(page.splitlines()) < MOST_LINES, f"docs/{name}: {len(page.splitlines())} lines"


def test_the_index_has_every_page():
    for name in PAGES.keys() - {"README.md"}:
        assert f"]({name})" in PAGES["README.md"], name


def chapter(page: str, title: str) -> str:
    """A chapter of a page, from its heading to the next one."""
    found = re.search(rf"^###? {re.escape(title)}\n(.*?)(?=^##|\Z)", PAGES[page], re.DOTALL | re.MULTILINE)
    assert found, f"docs/{page} has no chapter {title}"
    return found[1]


def test_the_table_of_stages_has_all_of_them():
    rows = re.findall(r"^\| `(\w+)` \|", chapter("run.md", "Stages"), re.MULTILINE)
    assert rows == [stage.name for stage in STAGES]


def test_the_table_of_exit_codes_is_that_of_the_command_line():
    rows = set(map(int, re.findall(r"^\| (\d+) \|", chapter("run.md", "Scheduled and batch runs"), re.MULTILINE)))
    known = {DONE, BUG, BAD_INPUT, SOME_SCANS_FAILED}
    assert rows == {*known, INTERRUPTED, READER_GONE}


def test_the_table_of_configs_has_all_of_them():
    rows = re.findall(r"^\| `(configs/[\w-]+\.yaml)` \|", chapter("settings.md", "The configs"), re.MULTILINE)
    assert sorted(rows) == sorted(f"configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml"))


def test_the_table_of_the_bundle_has_all_of_its_files():
    table = chapter("deployment.md", "Export a model")
    assert not [file for file in (*BUNDLE, *OPTIONAL) if f"`{file}`" not in table]


def test_the_table_of_methods_has_all_of_them():
    table = chapter("comparison.md", "Which baselines")
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(key for keys, _ in rows for key in re.findall(r"`(\w+)`", keys)) == sorted(KEYS)
    names = ", ".join(names for _, names in rows)
    assert not [name for name in SIMPLE_NAMES.values() if name not in names]


def test_the_sizes_of_the_gans_are_those_of_code_and_config():
    table = chapter("comparison.md", "pix2pix and cycleGAN")
    small = load_settings(ROOT / "configs" / "comparison.yaml", {}).baselines.gan
    for key in ("pixels", "slice_spacing_mm", "width", "discriminator_layers", "batch_size"):
        found = re.search(rf"^\| `{key}`[^|]*\| (\d+) \| (\d+) \|$", table, re.MULTILINE)
        assert found, key
        assert [float(found[1]), float(found[2])] == [getattr(GanConfig(), key), getattr(small, key)], key
    epochs = f"| {GanConfig().pix2pix_epochs}, {GanConfig().cyclegan_epochs} | {small.pix2pix_epochs}, "
    assert f"{epochs}{small.cyclegan_epochs} |" in table


def test_every_file_and_name_in_the_code_that_the_pages_mention_exists():
    for page in PAGES.values():
        for path in re.findall(
            r"`((?:cohort|preprocessing|models|baselines|evaluation|devices|files|pipeline|configs|docs|tests)"
            r"/[\w/-]+\.\w+)`",
            page,
        ):
            made = path.startswith(("cohort/", "baselines/")) and path.endswith(("csv", "json", "md"))
            assert made or path in (*BUNDLE, *OPTIONAL) or (ROOT / path).exists(), path
    for path, names in re.findall(r"`([\w/]+\.py)`: ((?:`\w+`(?:, )?)+)", PAGES["method.md"]):
        source = (ROOT / path).read_text("utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b(?:def|class) {name}\b|^{name}\b|\b{name}\b\s*[:=]", source, re.MULTILINE), (
                path,
                name,
            )
