"""Generators of demo cohorts, which write image files and a `manifest.csv` into one folder."""

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pandas as pd
from pydantic import BaseModel

from console.errors import InputError
from files.reading import UnusableFileError, parse_json, read_bytes
from files.tables import write_table
from files.writing import real_folder, replacing

MANIFEST, TRUTH, MADE_FROM = "manifest.csv", "truth.csv", "made_from.json"
THREADS = 2

Config = TypeVar("Config", bound=BaseModel)


class Counter(Protocol):
    """A counter of finished scans."""

    def advance(self) -> None:
        """Count one more."""


class Uncounted:
    """A counter without output."""

    def advance(self) -> None:
        """Do nothing."""


def unseen(total: int, unit: str) -> AbstractContextManager[Counter]:
    """Return a progress bar without output."""
    return nullcontext(Uncounted())


@dataclass(frozen=True)
class Generator(Generic[Config]):
    """A demo cohort: the list of its scans, and the content of their files.

    Attributes:
        config: the class of its options. The first line of its docstring describes the cohort.
        manifest: maps the options to the rows of `manifest.csv`, one a scan; quick. `path` is below the cohort's folder
            and names each file once.
        files: maps a row and the options to path → content, of the scan and of its other files, such as a true mask.
            It is called in several threads, and must not depend on other rows.
        truth: maps the options to the rows of `truth.csv`, which the pipeline does not read.
        version: raise it when the same options give another cohort.
        packages: packages to install beside those of the pipeline.
    """

    config: type[Config]
    manifest: Callable[[Config], pd.DataFrame]
    files: Callable[[Mapping[str, Any], Config], Mapping[str, bytes]]
    truth: Callable[[Config], pd.DataFrame] | None = None
    version: int = 1
    packages: tuple[str, ...] = ()

    def write(
        self, folder: Path, config: Config, progress: Callable[[int, str], AbstractContextManager[Counter]] = unseen
    ) -> Path:
        """Write the cohort; existing scans of the same options are kept.

        Args:
            folder: new, empty, or that of such a cohort.
            config: the options.
            progress: maps the number of scans to make and their unit to a progress bar.

        Returns:
            The manifest, which is written last.

        Raises:
            InputError: the folder holds something else.
        """
        folder.mkdir(parents=True, exist_ok=True)
        record, before = folder / MADE_FROM, _record(folder)
        made_from = {
            "generator": self.config.__module__, "version": self.version, "options": config.model_dump(mode="json")
        }  # fmt: skip
        if before is None:
            _write_json(record, made_from)
        table = self.manifest(config)
        for path in table["path"]:
            real_folder((folder / path).parent, below=folder)
        if before not in (None, made_from):
            for path in (MANIFEST, TRUTH, *table["path"]):
                (folder / path).unlink(missing_ok=True)
            _write_json(record, made_from)
        self._write_scans(folder, table, config, progress)
        if self.truth is not None:
            write_table(folder / TRUTH, self.truth(config))
        write_table(folder / MANIFEST, table)
        return folder / MANIFEST

    def _write_scans(
        self,
        folder: Path,
        table: pd.DataFrame,
        config: Config,
        progress: Callable[[int, str], AbstractContextManager[Counter]],
    ) -> None:
        remaining = [row for row in table.to_dict("records") if not (folder / row["path"]).exists()]

        def write_scan(row: Mapping[str, Any]) -> None:
            contents = self.files(row, config)
            others = [path for path in contents if path != row["path"]]
            for path in (*others, row["path"]):  # the scan last, as a sign that all its files exist
                with replacing(folder / path) as partial:
                    partial.write_bytes(contents[path])

        with progress(len(remaining), "scan") as counter, ThreadPoolExecutor(THREADS) as pool:
            try:
                for scan in as_completed([pool.submit(write_scan, row) for row in remaining]):
                    scan.result()
                    counter.advance()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _record(folder: Path) -> Any:
    """Return the generator and options of the cohort in a folder; None if the folder is empty.

    Raises:
        InputError: something else is in it.
    """
    try:
        return parse_json(read_bytes(folder / MADE_FROM))
    except FileNotFoundError:
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(f"{folder} holds something that is no demo cohort; name a folder of its own") from None
        return None
    except UnusableFileError:
        return "damaged"


def _write_json(path: Path, value: Any) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", "utf-8")
