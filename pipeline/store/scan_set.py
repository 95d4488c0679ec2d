"""Artifacts with one folder a scan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from files.reading import file_sha256
from files.writing import real_folder, remove_folder
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, DamagedError, read_record, safe_id, write_record


class ScanSet(Artifact):
    """One folder a scan. `record.json` is written last and holds the key that the files were made from."""

    def folder_of(self, scan: str) -> Path:
        """Return the folder of a scan, a direct child of the artifact's.

        Raises:
            ArtifactError: what should be a scan's id is none.
        """
        return self.folder / safe_id(scan)

    def record(self, scan: str) -> dict[str, Any] | None:
        """What was recorded with the scan's files; None if they are not finished."""
        return read_record(self.folder_of(scan) / "record.json")

    def has(self, scan: str, key: str) -> bool:
        """Whether the scan's files are finished and made from `key`."""
        return (self.record(scan) or {}).get("key") == key

    def failure(self, scan: str, key: str) -> dict[str, Any] | None:
        """The recorded failure under `key`: stage, reason, again (worth another try)."""
        failure = read_record(self.folder_of(scan) / "failure.json")
        return failure if failure and failure.get("key") == key else None

    def begin(self, scan: str) -> Path:
        """The scan's folder, emptied: nothing of an earlier setting stays behind."""
        self.remove(scan)
        place = self.folder_of(scan)
        return real_folder(place, below=place.parent)

    def remove(self, scan: str) -> None:
        """Delete the folder of a scan, its record first.

        Raises:
            PlantedLinkError: it is a link.
        """
        place = self.folder_of(scan)
        self.invalidate(scan)
        remove_folder(place, below=place.parent)

    def invalidate(self, scan: str) -> None:
        """Take the scan's files for unfinished from now on."""
        place = self.folder_of(scan)
        if not place.is_symlink():
            (place / "record.json").unlink(missing_ok=True)

    def finish(self, scan: str, key: str, facts: Mapping[str, Any]) -> None:
        """Say that the scan's files are complete; what readers go by is their content."""
        write_record(self.folder_of(scan) / "record.json", {"key": key, "content": self.content(scan), **facts})

    def content(self, scan: str) -> str:
        """Return the hash of the scan's files as they are now."""
        files = sorted(
            path for path in self.folder_of(scan).iterdir() if path.suffix in (".gz", ".png", ".safetensors")
        )
        return digest([(file.name, file_sha256(file)) for file in files])

    def check(self, scan: str) -> None:
        """Compare the scan's files with the hash in its record; every reader does this first.

        Raises:
            DamagedError: they are not as they were written. The scan counts as unfinished from then on.
        """
        record = self.record(scan)
        if record is None:
            self.damage(scan, "its record is gone, or not as it was written")
        if record.get("content") != self.content(scan):
            self.damage(scan, "its files are not as they were written")

    def damage(self, scan: str, found: str) -> NoReturn:
        """Take the scan for unfinished, and say so.

        Raises:
            DamagedError: always.
        """
        self.invalidate(scan)
        raise DamagedError(f"{self.folder.name}: the result of scan {scan} is damaged on disk: {found}")

    def check_all(self) -> list[str]:
        """Compare every scan with its record; returns those that were damaged and count as unfinished now."""
        damaged = []
        for scan in self.scans():
            try:
                self.check(scan)
            except DamagedError:
                damaged.append(scan)
        return damaged

    def fail(self, scan: str, key: str, reason: str, *, retryable: bool) -> None:
        """Record why there are no files; `again` if another try may end differently."""
        self.begin(scan)
        write_record(self.folder_of(scan) / "failure.json", {"key": key, "reason": reason, "retryable": retryable})

    def scans(self) -> dict[str, str]:
        """Scan → hash of its files, of the scans that the finished stage holds."""
        return (self.manifest or {}).get("scans", {})

    def integrity_error(self) -> str:
        """Name a scan whose files were taken away since; whether they are whole is looked at when they are read."""
        gone = [scan for scan in self.scans() if not (self.folder_of(scan) / "record.json").exists()]
        return f"the files of {len(gone)} scans are gone, {gone[0]} among them" if gone else super().integrity_error()
