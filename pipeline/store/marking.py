"""Marking of the images that a stage makes up, with the key that its settings name."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from console.errors import InputError
from intake.pseudonyms import read_or_make_key
from synthesis.mark_detection import detect
from synthesis.mark_pattern import MarkError, derived
from synthesis.mark_views import image_of_picture, image_of_volume
from synthesis.watermark import mark_picture, mark_volume

log = logging.getLogger("hypermm")
CLEAR = 1e-6  # p of a mark in its own file, above which it is said to be weak


def existing_key(path: Path) -> bytes:
    """Read the key of a mark.

    Raises:
        InputError: there is no such file.
        KeyFileError: it holds no key, or others may read it.
    """
    if not path.exists():
        raise InputError(f"there is no key file {path}; python -m pipeline.cli.watermark new {path} makes one")
    return read_or_make_key(path, outside=[])


def mark_fingerprint(key_file: Path | None) -> str | None:
    """Return a name of the key, by which nobody can find it, for the key of a stage: another one makes other images.

    Args:
        key_file: from the settings; None: no mark.

    Raises:
        InputError: there is no such file.
        KeyFileError: it holds no key, or others may read it.
    """
    return None if key_file is None else derived(existing_key(key_file), "name of the key", "").hex()[:32]


class Marked(Protocol):
    """Settings of a stage that marks its images."""

    @property
    def mark_key(self) -> Path | None:
        """File of the key; None: no mark."""


def mark_of(config: Marked) -> str | None:
    """Return the name of the key that settings name, for the key of a stage."""
    return mark_fingerprint(config.mark_key)


@dataclass
class Marker:
    """Marks images, looks whether the mark can be found again, and counts.

    Attributes:
        key: secret; None where nothing is marked.
        batch: what is marked together.
        setting: of the key, for messages.
        weak: names of images whose own mark is hard to find, with p.
        failed: names of images that carry no mark → why.
        marked: how many do.
    """

    key: bytes | None = field(repr=False)
    batch: str
    setting: str
    weak: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    marked: int = 0

    @classmethod
    def ready(cls, key_file: Path | None, batch: str, *, setting: str, workspace: Path) -> Self:
        """Read the key.

        Args:
            key_file: from the settings; None: nothing is marked.
            batch: from the settings.
            setting: name of the setting with the key, for messages.
            workspace: that the key must not lie in.

        Raises:
            KeyFileError: the file lies in the workspace, others can read it, or it holds no key.
            InputError: there is no such file, or the batch has no name.
        """
        if not batch.strip():
            raise InputError(f"{setting}: the batch has no name; the mark is looked for by key and batch")
        if key_file is None:
            return cls(None, batch, setting)
        existing_key(key_file)
        return cls(read_or_make_key(key_file, outside=[workspace]), batch, setting)

    def volume(
        self, volume: NDArray[np.floating], mask: NDArray[np.bool_], affine: NDArray[np.float64], *, name: str
    ) -> NDArray[np.floating]:
        """Return a volume (X, Y, Z) marked inside its mask, or as it is where that is not possible.

        Args:
            volume: any intensities.
            mask: True inside the brain.
            affine: voxel to world, (4, 4), mm.
            name: of the file, for the notes.
        """
        if self.key is None:
            return volume
        try:
            marked = mark_volume(volume, mask, affine, key=self.key, batch=self.batch)
        except MarkError as error:
            self.failed[name] = str(error)
            return volume
        found = detect(image_of_volume(marked, affine), self.key, [self.batch], thorough=False)
        self._count(name, found.p)
        return marked

    def picture(self, pixels: NDArray[np.uint8], *, name: str) -> NDArray[np.uint8]:
        """Return a picture (H, W) or (H, W, 3) marked, or as it is where that is not possible."""
        if self.key is None:
            return pixels
        try:
            marked = mark_picture(pixels, key=self.key, batch=self.batch)
        except MarkError as error:
            self.failed[name] = str(error)
            return pixels
        found = detect(image_of_picture(marked), self.key, [self.batch], thorough=False)
        self._count(name, found.p)
        return marked

    def _count(self, name: str, p: float) -> None:
        self.marked += 1
        if p > CLEAR:
            self.weak[name] = p

    def facts(self, name: str) -> dict[str, Any]:
        """Return what the JSON beside an image says of its mark; nothing in it tells the key."""
        if self.key is None or name in self.failed:
            return {"mark": None}
        return {"mark": {"batch": self.batch, "weak": name in self.weak}}

    def notes(self) -> Sequence[str]:
        """Return sentences for summary and report: how the mark is found, what has none, and what only weakly."""
        if self.key is None:
            return [f"the images carry no watermark; name a file for its key: {self.setting}"]
        said = []
        if self.marked:
            said.append(
                f"{self.marked} images carry an invisible watermark, by which they are known for made up: python -m "
                f"pipeline.cli.watermark verify FILE --key KEYFILE --batch '{self.batch}'"
            )
        if self.failed:
            name, why = next(iter(self.failed.items()))
            said.append(f"{len(self.failed)} images carry no watermark, {name} among them: {why}")
        if self.weak:
            name, p = max(self.weak.items(), key=lambda each: each[1])
            said.append(
                f"{len(self.weak)} images are too small or too rich in contrast for a clear watermark; that of {name} "
                f"is found with p = {p:.2g}, and may not survive a change of the file"
            )
        return said
