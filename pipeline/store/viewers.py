"""Artifacts with pages beside their own that show the slices of scans."""

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from files.writing import real_folder, remove_folder, replacing
from pipeline.store.base import Artifact
from pipeline.store.volumes import VolumeSet
from reporting.viewer import viewer_page


class WithViewers(Artifact):
    """An artifact that has a page of slices of some volumes, in the folder `viewer`."""

    VIEWERS: ClassVar = "viewer"

    def files(self) -> list[Path]:
        """List the files of the finished stage, the pages of slices with them."""
        return [*super().files(), *sorted((self.folder / self.VIEWERS).glob("*.html"))]

    def remove_viewers(self) -> None:
        """Remove the pages of slices of an earlier run; no symbolic link below the workspace is followed."""
        remove_folder(real_folder(self.folder, below=self.folder.parent) / self.VIEWERS, below=self.folder)

    def save_viewer(
        self,
        scan: str,
        preprocess: VolumeSet,
        *,
        convention: str,
        back: str,
        occlusion: NDArray[np.float32] | None = None,
        occlusion_of: str = "",
    ) -> str:
        """Write the page with the slices of a preprocessed scan.

        Args:
            scan: its id.
            preprocess: the scans.
            convention: "radiological" or "neurological".
            back: address of the page that links here.
            occlusion: as for `reporting.viewer.viewer_page`.
            occlusion_of: the same.

        Returns:
            Path of the page below the folder; "" if the scan is no volume or has not been preprocessed.

        Raises:
            DamagedError: the volume is not as it was written.
        """
        if (preprocess.record(scan) or {}).get("kind") != "volume":
            return ""
        volume, mask, spacing_mm = preprocess.load_volume(scan)
        page = viewer_page(
            scan,
            volume.numpy(),
            spacing_mm,
            mask=mask.numpy(),
            occlusion=occlusion,
            occlusion_of=occlusion_of,
            convention=convention,
            back=back,
        )
        name = f"{self.VIEWERS}/{scan}.html"
        real_folder(self.folder / self.VIEWERS, below=self.folder.parent)
        with replacing(self.folder / name) as partial:
            partial.write_text(page, "utf-8")
        return name
