"""Make the cohort of drawn biopsies: pictures at four magnifications and a manifest like anyone's."""

from collections.abc import Mapping
from typing import Any

from demo.biopsies import BiopsiesConfig, biopsy, biopsy_table, make_picture, picture_table
from files.writing import replacing
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.specs.biopsies import STAGE
from pipeline.store.demo_cohorts import PictureCohort
from preprocessing.io import png_bytes


def biopsies(out: PictureCohort, config: BiopsiesConfig, runtime: Runtime) -> None:
    """Write every picture, `manifest.csv`, and the truth that only tests read (`truth.csv`)."""
    truth = biopsy_table(config)
    subjects = {row.subject: biopsy(number, config) for number, row in enumerate(truth.itertuples(), 1)}
    table = picture_table(config)
    pictures = {path.removesuffix(".png"): row for path, row in zip(table["path"], table.itertuples(), strict=True)}
    material = digest([STAGE.version, result_settings(config)])

    def load(scan: str) -> Any:
        row = pictures[scan]
        return make_picture(subjects[row.subject], row.modality, row.picture, config)

    def save(scan: str, picture: Any) -> Mapping[str, Any]:
        (out.begin(scan) / out.PICTURE).write_bytes(png_bytes(picture))
        return {}

    keys = {scan: digest([material, scan]) for scan in pictures}
    each_scan(ScanJob(keys, load, lambda scan, picture: picture, save, readers=2), out, runtime)
    manifest = table[["subject", "modality", "tumour"]].assign(path=[f"{scan}/{out.PICTURE}" for scan in pictures])
    with replacing(out.manifest_csv) as part:
        manifest.to_csv(part, index=False, lineterminator="\n")
    with replacing(out.folder / "truth.csv") as part:
        truth.to_csv(part, index=False, lineterminator="\n")
    runtime.results |= scan_contents(out, keys)
