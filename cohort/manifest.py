"""Read the manifest, one row a scan, and check it before anything is computed."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, Self

import pandas as pd
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from cohort.checks import OVERRULE, class_problems, names_no_file, problems
from cohort.names import are_numbers, may_be_thousands, missing, without_missing
from cohort.origin import COLUMNS as ORIGIN
from cohort.origin import is_synthetic, names_synthetic, real_only
from cohort.splits import SPLITS
from cohort.table_members import ColumnKind, member_rows, without_file
from cohort.tables import CONTROL, ManifestError, Problem, shortened
from files.naming import as_on_disk

# Columns of scans, not of observations.
OF_ONE_SCAN = [
    "scan", "modality", "kind", "skull_strip", "normalise", "trust", "bits", "path", "sha256", "values", "row",
]  # fmt: skip
IDS = ["scan", "subject", "session", "observation", "modality", "kind", "path", "label"]
LONGEST_NAME = 100  # characters of a scan id, before hashes are appended
UNSAFE = "[^A-Za-z0-9_-]|^-"  # what no scan id may have; "_" takes its place
MODALITY = r"[^./\\\s](?:[^/\\]{0,58}[^/\\\s])?"  # folders and pages are named after modalities
DEMO_NAME = r"^[A-Za-z]\w*$"  # names of demo cohorts; other text is a path
RESERVED = {"scan", "subject", "session", "observation", "modality", "kind", "path", "label", "split", "row", "values"}
SEPARATOR = "\x1f"  # between the fields of a key, ASCII's unit separator; NumPy would drop a NUL


class ModalityConfig(BaseModel):
    """The settings of one modality."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["volume", "image", "table"] = Field(
        default="volume",
        description="volume: 3-D scan; image: 2-D picture; table: columns of the manifest, one value a patient and "
        "session",
    )
    columns: dict[str, ColumnKind] = Field(
        default={}, description="of a table: column of the manifest → category or number"
    )
    skull_strip: bool = Field(default=True, description="remove all but the brain; ignored for images and tables")
    normalise: str = Field(
        default="minmax",
        description="how intensities are brought to [0, 1]: minmax, as published; minmax_robust; volumes only",
    )
    trust: Literal["sform", "qform"] | None = Field(
        default=None,
        description="the affine of NIfTIs to use where both contradict each other or have no code; null: refuse those",
    )
    bits: int | None = Field(
        default=None,
        ge=8,
        le=16,
        description="how many bits the camera of 16-bit pictures has, for those that do not say it; null: as many as "
        "the largest value of the cohort needs",
    )

    @model_validator(mode="after")
    def _bits_are_of_pictures(self) -> Self:
        if self.kind != "image" and self.bits is not None:
            raise ValueError(f"bits: {self.bits} is for pictures (kind: image); leave it away")
        return self

    @model_validator(mode="after")
    def _columns_are_of_tables(self) -> Self:
        if self.kind != "table":
            if self.columns:
                raise ValueError(f"columns: {', '.join(self.columns)}: only a table has columns; set kind: table")
            return self
        if not self.columns:
            raise ValueError("columns: a table needs at least one, such as {mmse: number, methylation: category}")
        for name in self.columns:
            if name in RESERVED or name != name.strip() or not name or re.search(CONTROL, name):
                raise ValueError(f"columns: {name!r} cannot be a value; it is empty, or has a meaning of its own")
        for name, default in (("normalise", "minmax"), ("trust", None)):
            if getattr(self, name) != default:
                raise ValueError(f"{name}: {getattr(self, name)} is for volumes; a table has none. Leave it away")
        return self

    @model_validator(mode="after")
    def _pictures_are_kept(self) -> Self:
        if self.kind == "image" and self.normalise != type(self).model_fields["normalise"].default:
            raise ValueError(
                f"normalise: {self.normalise} is for volumes; a picture is kept as it is. Leave it away, or set "
                "kind: volume"
            )
        if self.kind == "image" and self.trust is not None:
            raise ValueError(f"trust: {self.trust} is for volumes; a picture has no affine. Leave it away")
        return self


def _as_written(value: object) -> object:
    """Convert a number to text, and refuse booleans: a class may be called 1, but No has to be quoted."""
    if isinstance(value, bool):
        raise ValueError("YAML takes this word for true or false; put it in quotation marks")
    return str(value) if isinstance(value, int | float) else value


class CohortConfig(BaseModel):
    """The patients of a study, their labels and covariates."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    modalities: dict[str, ModalityConfig] = Field(
        min_length=1, description="name → {kind, columns, skull_strip, normalise, trust, bits}"
    )
    manifest: Annotated[str, StringConstraints(pattern=DEMO_NAME)] | Path | None = Field(
        default=None,
        description="CSV or TSV, one row a scan; with layout breakhis a folder; or the name of a demo cohort",
    )
    layout: Literal["table", "breakhis"] = Field(
        default="table", description="breakhis: the manifest is a folder whose pictures are named as in BreakHis"
    )
    balanced: tuple[int, int] | None = Field(
        default=None,
        description="with layout breakhis: so many benign and malignant patients, as in the paper [24, 29]",
    )
    label: str | None = Field(
        default="diagnosis",
        description="column that holds the class of a patient; null: it is not known, for the stage predict",
    )
    positive: Annotated[str, BeforeValidator(_as_written)] | None = Field(
        default=None, description="class counted as positive in binary metrics"
    )
    covariates: tuple[str, ...] = Field(default=("age", "sex", "site"), description="columns kept where present")
    not_missing: tuple[Annotated[str, BeforeValidator(_as_written)], ...] = Field(
        default=(), description="words that stand for no value elsewhere and are names here, such as none or NA"
    )
    data_root: Path | None = Field(default=None, description="folder that no scan may lie outside of; null: anywhere")
    limit: int | None = Field(default=None, ge=6, description="take only so many subjects, the classes in turn")

    @field_validator("modalities")
    @classmethod
    def _names_of_modalities(cls, modalities: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for name in modalities:
            if not re.fullmatch(MODALITY, name) or re.search(CONTROL, name):
                raise ValueError(
                    f"{name!r} cannot be the name of a modality: 1 to 60 characters, none of them / or \\ or a control "
                    "character, and no dot at the beginning"
                )
        return modalities

    @model_validator(mode="after")
    def _tables_do_not_hold_the_class(self) -> Self:
        owner: dict[str, str] = {}
        for modality, columns in self.tables().items():
            for name in columns:
                if name == self.label:
                    raise ValueError(
                        f"modalities.{modality}.columns: {name!r} is the class (cohort.label); a model that is given "
                        "it has nothing to learn. Take it out of the table"
                    )
                if name in owner:
                    raise ValueError(f"modalities.{modality}.columns: {name!r} is in {owner[name]} already; keep one")
                owner[name] = modality
        return self

    def tables(self) -> dict[str, dict[str, ColumnKind]]:
        """Return the modalities that are tables: name → column → kind."""
        return {name: dict(each.columns) for name, each in self.modalities.items() if each.kind == "table"}


def check_manifest(
    table: pd.DataFrame,
    *,
    folder: Path,
    config: CohortConfig,
    smallest_class: int,
) -> pd.DataFrame:
    """Turn the manifest into the table of scans, or report all its problems at once.

    Spaces around cells are dropped, and letters with accents are brought to one form (NFC), in paths to that of the
    disk. Covariates that stand for no value (`cohort.names.MISSING`) are emptied; of those that hold numbers only,
    decimal commas become points. `reading_notes` says where.

    Args:
        table: As from `read_table`: `subject`, `modality`, `path`, the label; at will `session`, `split`, covariates.
        folder: What relative paths are relative to, as a rule the folder of the manifest.
        config: Names the label column, the positive class, the modalities, the covariates and the data root.
        smallest_class: Subjects a class needs at least.

    Returns:
        One row a scan in the order of the manifest, then one for each table of an observation that has a value in it
        (`cohort.table_members`). All str but `row`: `scan` (unique even where case is ignored, safe as a file name),
        `subject`, `session` (or ""), `observation` (subject or subject_session, unique), `modality`, `kind`, `path`
        (absolute), `label` ("" if config.label is None), the covariates present, `split` ("" or one of `SPLITS`),
        `row` (int64), with tables also `values`. If config.label is None, nothing is trained, and files may be
        missing: predictions go on without them.

    Raises:
        ManifestError: Anything is wrong; it lists all problems with their rows, at most 20 of one kind.
    """
    columns = _columns(table)
    rows = _rows(columns, folder, config)
    checks = [*_problems(columns, rows, config)]
    if config.label is not None:
        labelled = real_only(rows)[lambda real: (real["label"] != "") & (real["subject"] != "")]
        checks.append(list(class_problems(labelled, config.positive, smallest_class)))
    if listed := [problem for check in checks for problem in shortened(check)]:
        raise ManifestError(*listed)
    tables = config.tables()
    if tables:
        of_files = rows[~without_file(rows, tables)].assign(values="")
        rows = pd.concat([of_files, member_rows(rows, tables)], ignore_index=True)
    rows = _with_ids(rows)
    rows["kind"] = rows["modality"].map({name: each.kind for name, each in config.modalities.items()})
    names = [*IDS, *_covariates(columns, config), "split", "row", *(["values"] if tables else [])]
    names += ["origin"] if is_synthetic(rows).any() else []
    return rows[names].reset_index(drop=True)


def reading_notes(table: pd.DataFrame, config: CohortConfig) -> list[str]:
    """Describe the covariates and columns of tables that `check_manifest` does not take as they are written."""
    columns = _columns(table)
    notes = []
    of_tables = [name for kinds in config.tables().values() for name in kinds]
    for name in dict.fromkeys([*_covariates(columns, config), *of_tables]):
        if name not in columns:
            notes.append(f"the manifest has no column {name!r}; it counts as empty for every patient")
            continue
        cells = columns[name].str.normalize("NFC")
        words = cells[(cells != "") & missing(cells, config.not_missing)]
        if len(words):
            named = ", ".join(map(repr, sorted(set(words))))
            notes.append(f"{name}: {len(words)} cells stand for no value ({named}) and count as empty{OVERRULE}")
        given = cells.drop(words.index)
        if commas := int((given != _covariate(given, config.not_missing)).sum()):
            notes.append(f"{name}: {commas} decimal commas are read as points")
    return notes


def usable_rows(
    table: pd.DataFrame, *, folder: Path, config: CohortConfig, unreadable: Iterable[Problem] = ()
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Leave out the rows of a manifest that `check_manifest` would refuse; the others go on.

    Of several rows that name the same file the first stays; of a subject in two spellings none does.

    Args:
        table: As for `check_manifest`.
        folder: The same.
        config: The same, without a label column.
        unreadable: Rows that `read_rows` left out already.

    Returns:
        The other rows, and for each left out: row, subject, session, modality, path, reason.

    Raises:
        ManifestError: A column is missing.
    """
    columns = _columns(table)
    table, refused = drop_unusable(table, folder=folder, config=config)
    left_out = [
        {"row": str(each.row), **dict.fromkeys(("subject", "session", "modality", "path"), ""), "reason": each.text}
        for each in unreadable
    ]
    for row, problem in refused.items():
        cells = columns.reindex(columns=["subject", "session", "modality", "path"], fill_value="").loc[row - 2]
        names = {name: re.sub(CONTROL, "\N{REPLACEMENT CHARACTER}", cell) for name, cell in cells.items()}
        left_out.append({"row": str(row), **names, "reason": problem.text})
    return table, left_out


def drop_unusable(
    table: pd.DataFrame, *, folder: Path, config: CohortConfig
) -> tuple[pd.DataFrame, dict[int, Problem]]:
    """Drop rows as `usable_rows` does, and return the first problem of each row left out."""
    left_out: dict[int, Problem] = {}
    while True:
        columns = _columns(table)
        first: dict[int, Problem] = {}
        for problem in itertools.chain(*_problems(columns, _rows(columns, folder, config), config)):
            if problem.row is None:
                raise ManifestError(problem)
            first.setdefault(problem.row, problem)
        left_out |= first
        table = table.drop(index=[row - 2 for row in first])
        if table.empty or not first:
            return table, left_out


def first_subjects(scans: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Return the scans of the first `limit` subjects, taking one of each class in turn."""
    subjects = scans.drop_duplicates("subject")[["subject", "label"]]
    turn = subjects.groupby("label").cumcount()
    chosen = subjects.assign(turn=turn).sort_values("turn", kind="stable")["subject"][:limit]
    return scans[scans["subject"].isin(chosen)].reset_index(drop=True)


def class_names(labels: Iterable[str], positive: str | None) -> tuple[str, ...]:
    """Return the classes in sorted order; of two classes the positive one comes last, so that its index is 1."""
    names = sorted(set(labels) - {""})
    return tuple(sorted(names, key=lambda name: name == positive) if len(names) == 2 else names)


def observations(scans: pd.DataFrame) -> pd.DataFrame:
    """Return one row an observation, all str: `observation`, `subject`, `session`, `label`, covariates, `split`."""
    apart = [*OF_ONE_SCAN, *(ORIGIN if names_synthetic(scans) else ())]
    first = scans.drop_duplicates("observation").drop(columns=apart, errors="ignore")
    return first[["observation", *first.columns.drop("observation")]].reset_index(drop=True)


def _rows(columns: pd.DataFrame, folder: Path, config: CohortConfig) -> pd.DataFrame:
    """Give the required and optional columns fixed names, and add the covariates; missing ones are ""."""
    empty = pd.Series("", index=columns.index, dtype=str)
    sources = {name: name for name in ("subject", "session", "modality")}
    if config.label is not None:
        sources |= {"split": "split", "label": config.label}
    rows = pd.DataFrame({name: columns.get(source, empty).str.normalize("NFC") for name, source in sources.items()})
    for name in {"label", "split"} - set(rows):
        rows[name] = ""
    for name in ("subject", "label", "split"):
        rows[name] = without_missing(rows[name], config.not_missing)
    rows["split"] = rows["split"].str.lower().replace({"val": SPLITS[1], "valid": SPLITS[1]})
    rows["path"] = columns.get("path", empty).map(
        lambda path: "" if names_no_file(path) else str(as_on_disk(folder.absolute() / path))
    )
    of_tables = [name for kinds in config.tables().values() for name in kinds]
    covariates = {
        name: _covariate(columns.get(name, empty), config.not_missing)
        for name in dict.fromkeys([*_covariates(columns, config), *of_tables])
    }
    if names_synthetic(columns):
        covariates |= {name: columns.get(name, empty).str.casefold() for name in ORIGIN}
    return rows.assign(**covariates, row=rows.index + 2)


def _problems(columns: pd.DataFrame, rows: pd.DataFrame, config: CohortConfig) -> Iterator[list[Problem]]:
    return problems(
        columns,
        rows,
        label=config.label,
        modalities=config.modalities,
        covariates=_covariates(columns, config),
        tables=config.tables(),
        not_missing=config.not_missing,
        data_root=config.data_root,
    )


def _covariates(columns: pd.DataFrame, config: CohortConfig) -> list[str]:
    taken = (*IDS, "split", "row", *(ORIGIN if names_synthetic(columns) else ()))
    return [name for name in config.covariates if name in columns and name not in taken]


def _covariate(cells: pd.Series, not_missing: tuple[str, ...]) -> pd.Series:
    """Empty the cells that stand for no value; where the others are numbers, write decimal commas as points."""
    cells = without_missing(cells.str.normalize("NFC"), not_missing)
    commas = cells.str.contains(",") & ~cells.map(may_be_thousands).astype(bool)
    return cells.mask(commas, cells.str.replace(",", ".")) if commas.any() and are_numbers(cells) else cells


def _columns(table: pd.DataFrame) -> pd.DataFrame:
    """Convert cells and column names to text without spaces around."""
    return table.astype(object).fillna("").astype(str).rename(columns=str.strip).apply(lambda cell: cell.str.strip())


def _with_ids(rows: pd.DataFrame) -> pd.DataFrame:
    """Add `observation` and `scan`."""
    key = rows["subject"] + SEPARATOR + rows["session"]
    text = key.str.removesuffix(SEPARATOR).str.replace(SEPARATOR, "_")
    rows = rows.assign(observation=_unique(text, text, key))
    number = rows.groupby(["observation", "modality"]).cumcount() + 1
    key = rows["observation"] + SEPARATOR + rows["modality"] + SEPARATOR + number.astype(str)
    text = key.str.removesuffix(SEPARATOR + "1").str.replace(SEPARATOR, "_")
    return rows.assign(scan=_unique(text.str.replace(UNSAFE, "_", regex=True).str[:LONGEST_NAME], text, key))


def _unique(names: pd.Series, texts: pd.Series, keys: pd.Series) -> pd.Series:
    """Append a hash of the key to names that differ from their text or that, case ignored, two keys share."""
    shared = keys.groupby(names.str.lower()).transform("nunique") > 1
    hashes = keys.map(lambda key: "-" + hashlib.sha256(key.encode()).hexdigest()[:12])
    return names + hashes.where(shared | (names != texts), "")
