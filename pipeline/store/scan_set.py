"""Artifacts with one folder per scan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from files.reading import file_sha256
from files.writing import real_folder, remove_folder
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, DamagedError, read_record, safe_id, write_record


class ScanSet(Artifact):
    """One folder per scan. `record.json` is written last and holds the key that the files were made from."""

    def folder_of(self, scan: str) -> Path:
        """Return the folder of a scan, a direct child of the artifact's.

        Raises:
            ArtifactError: the name is not a valid id of a scan.
        """
        return self.folder / safe_id(scan)

    def record(self, scan: str) -> dict[str, Any] | None:
        """Return the record of the scan's files; None if they are not finished."""
        return read_record(self.folder_of(scan) / "record.json")

    def has(self, scan: str, key: str) -> bool:
        """Return whether the scan's files are finished and made from `key`."""
        return (self.record(scan) or {}).get("key") == key

    def failure(self, scan: str, key: str) -> dict[str, Any] | None:
        """Return the failure recorded under `key`, with `reason` and `retryable`; None if there is none."""
        failure = read_record(self.folder_of(scan) / "failure.json")
        return failure if failure and failure.get("key") == key else None

    def begin(self, scan: str) -> Path:
        """Empty the folder of a scan and return it."""
        self.remove(scan)
        folder = self.folder_of(scan)
        return real_folder(folder, below=folder.parent)

    def remove(self, scan: str) -> None:
        """Delete the folder of a scan, its record first.

        Raises:
            PlantedLinkError: the folder is a symbolic link.
        """
        folder = self.folder_of(scan)
        self.invalidate(scan)
        remove_folder(folder, below=folder.parent)

    def invalidate(self, scan: str) -> None:
        """Mark the scan's files as unfinished."""
        folder = self.folder_of(scan)
        if not folder.is_symlink():
            (folder / "record.json").unlink(missing_ok=True)

    def finish(self, scan: str, key: str, facts: Mapping[str, Any]) -> None:
        """Record that the scan's files are complete, with the hash of their content."""
        write_record(self.folder_of(scan) / "record.json", {"key": key, "content": self.content(scan), **facts})

    def content(self, scan: str) -> str:
        """Return the hash of the scan's files as they are now."""
        files = sorted(
            path for path in self.folder_of(scan).iterdir() if path.suffix in (".gz", ".png", ".safetensors")
        )
        return digest([(file.name, file_sha256(file)) for file in files])

    def check(self, scan: str) -> None:
        """Compare the scan's files with the hash in its record, before they are read.

        Raises:
            DamagedError: the files are not as they were written. The scan counts as unfinished from then on.
        """
        record = self.record(scan)
        if record is None:
            self.damage(scan, "its record is missing, or not as it was written")
        if record.get("content") != self.content(scan):
            self.damage(scan, "its files are not as they were written")

    def damage(self, scan: str, reason: str) -> NoReturn:
        """Mark the scan as unfinished and raise.

        Raises:
            DamagedError: always.
        """
        self.invalidate(scan)
        raise DamagedError(f"{self.folder.name}: the result of scan {scan} is damaged on disk: {reason}")

    def check_all(self) -> list[str]:
        """Compare every scan with its record; return the damaged ones, which count as unfinished now."""
        damaged = []
        for scan in self.scans():
            try:
                self.check(scan)
            except DamagedError:
                damaged.append(scan)
        return damaged

    def fail(self, scan: str, key: str, reason: str, *, retryable: bool) -> None:
        """Record why a scan failed; `retryable` if another attempt may succeed."""
        self.begin(scan)
        write_record(self.folder_of(scan) / "failure.json", {"key": key, "reason": reason, "retryable": retryable})

    def scans(self) -> dict[str, str]:
        """Return scan → hash of its files, for the scans of the finished stage."""
        return (self.manifest or {}).get("scans", {})

    def integrity_error(self) -> str:
        """Describe missing files of scans, or return ""; the content is checked when files are read."""
        missing = [scan for scan in self.scans() if not (self.folder_of(scan) / "record.json").exists()]
        return (
            f"the files of {len(missing)} scans are missing, {missing[0]} among them"
            if missing
            else super().integrity_error()
        )
