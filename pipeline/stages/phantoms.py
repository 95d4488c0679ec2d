"""Make the demo cohort: NIfTI files and a manifest like anyone's, with known truth beside them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from demo.phantoms import PhantomsConfig, make_scan, phantom, phantom_table
from files.writing import replacing
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.specs.phantoms import STAGE
from pipeline.store.demo_cohorts import PhantomCohort
from preprocessing.io import write_volume


def phantoms(out: PhantomCohort, config: PhantomsConfig, runtime: Runtime) -> None:
    """Write every phantom's scans, their true brain masks, `manifest.csv` and the truth that only tests read.

    The manifest names no sign of disease but the diagnosis; which sign a phantom carries stands in `truth.csv`.
    """
    table = phantom_table(config)
    rows = [
        {"subject": row.subject, "modality": modality, "path": f"{row.subject}_{modality}/{out.SCAN}"}
        | {column: getattr(row, column) for column in ("diagnosis", "age", "sex", "site")}
        for row in table.itertuples()
        for modality in ("MRI", "PET")
        if modality == "MRI" or row.has_pet
    ]
    numbers = {row.subject: number for number, row in enumerate(table.itertuples(), 1)}
    scans = {row["path"].split("/")[0]: (numbers[row["subject"]], row["modality"]) for row in rows}
    material = digest([STAGE.version, result_settings(config)])

    def load(scan: str) -> Any:
        number, modality = scans[scan]
        return make_scan(phantom(number, config), modality, config)

    def save(scan: str, made: Any) -> Mapping[str, Any]:
        volume, mask, affine = made
        place = out.begin(scan)
        write_volume(place / out.SCAN, volume, affine, "HyperMM demo phantom, not a person")
        write_volume(place / out.TRUE_MASK, mask, affine, "HyperMM demo phantom, true brain")
        return {}

    keys = {scan: digest([material, scan]) for scan in scans}
    each_scan(ScanJob(keys, load, lambda scan, made: made, save, readers=2), out, runtime)
    with replacing(out.manifest_csv) as part:
        pd.DataFrame(rows).to_csv(part, index=False, lineterminator="\n")
    with replacing(out.folder / "truth.csv") as part:
        table.to_csv(part, index=False, lineterminator="\n")
    runtime.results |= scan_contents(out, keys)
