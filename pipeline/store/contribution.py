"""The artifact of the stage contribute: the file to send, and what stays at the site."""

import secrets
from typing import Any, ClassVar

from files.reading import file_sha256
from files.writing import real_folder, replacing
from pipeline.core.provenance import digest
from pipeline.store.base import Artifact, ArtifactError, read_record, write_record


class ContributionSet(Artifact):
    """`contribution.safetensors`, which is sent; `sent.json`, every release so far, which stays.

    `sent.json` says whose sums each release holds. It outlives reruns: privacy that was spent stays spent.
    """

    FILE: ClassVar = "contribution.safetensors"
    FILES: ClassVar = (FILE, "sent.json")

    def releases(self) -> list[dict[str, Any]]:
        """Return what was released so far, oldest first: id, repeat, round, epsilon, delta, train_subjects.

        Raises:
            ArtifactError: `sent.json` is there and damaged.
        """
        path = self.folder / "sent.json"
        if not path.exists():
            return []
        record = read_record(path)
        if record is None:
            raise ArtifactError(
                f"{path} is damaged or was edited; it says which patients were shared and what privacy is spent. Bring "
                "it back from a copy"
            )
        return list(record["releases"])

    def save(self, content: bytes, release: dict[str, Any]) -> None:
        """Write a contribution; its release is recorded first."""
        real_folder(self.folder, below=self.folder.parent)
        write_record(self.folder / "sent.json", {"releases": [*self.releases(), release]})
        with replacing(self.folder / self.FILE) as partial:
            partial.write_bytes(content)

    def forget(self, subject: str) -> list[str]:
        """Take a subject's name out of all releases, mark those that hold the subject, and remove the file to send.

        A name that says nothing takes its place, so that sums of a few patients by a difference are still found.

        Returns:
            The ids of the releases that hold the subject.
        """
        releases, other = self.releases(), f"forgotten-{secrets.token_hex(8)}"
        holds = [each for each in releases if subject in each["train_subjects"]]
        for each in holds:
            each["forgotten"] = True
            each["train_subjects"] = sorted(other if name == subject else name for name in each["train_subjects"])
            for rows in each.get("summed", {}).values():
                for row in rows:
                    if row[0] == subject:
                        row[:2] = [other, other]
        if holds:
            (self.folder / self.FILE).unlink(missing_ok=True)
            (self.folder / "manifest.json").unlink(missing_ok=True)
            write_record(self.folder / "sent.json", {"releases": releases})
        return [each["id"] for each in holds]

    def contents(self) -> dict[str, Any]:
        """Return the fingerprint of the releases."""
        return {"fingerprint": digest([file_sha256(self.folder / name) for name in self.FILES])}
