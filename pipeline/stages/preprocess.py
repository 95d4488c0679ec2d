"""Skull strip, resample and normalise every scan, once."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from devices.out_of_memory import Fallback, run_with_oom_fallback
from pipeline.core.provenance import digest, result_settings
from pipeline.core.runtime import Runtime
from pipeline.runner.per_scan import ScanJob, each_scan, scan_contents
from pipeline.specs.preprocess import STAGE, PreprocessConfig
from pipeline.store.tables import CohortTables
from pipeline.store.volumes import VolumeSet
from preprocessing.brains import RegistrationTarget, VolumePipeline, preprocess_volume
from preprocessing.encoding import png_bytes
from preprocessing.limits import Limits
from preprocessing.normalise import PUBLISHED
from preprocessing.pictures import read_picture
from preprocessing.volumes import read_volume

MOST_NAMED = 5  # scans in a note about remarks


def preprocess(cohort: CohortTables, out: VolumeSet, config: PreprocessConfig, runtime: Runtime) -> None:
    """Write a volume in [0, 1], its mask and a QC picture per scan; a picture as 8-bit RGB, upright."""
    job = preprocess_job(cohort, out, config, runtime)
    each_scan(job, out, runtime)
    for scan in sorted(job.second_pass):
        if reason := (out.record(scan) or {}).get("not_registered"):
            runtime.note(f"{scan} was not registered, and its brain was segmented from the scan itself: {reason}")
    _note_remarks(job.keys, out, runtime)
    runtime.results |= scan_contents(out, job.keys)


def preprocess_job(cohort: CohortTables, out: VolumeSet, config: PreprocessConfig, runtime: Runtime) -> ScanJob:
    """Return the job that preprocesses each scan."""
    limits = Limits(config.largest_extent_mm, config.memory_gb, config.brain_ml)
    scans = cohort.scans().query("kind != 'table'").set_index("scan", drop=False)
    targets = _targets(scans, config)
    keys = _keys(scans, targets, config)

    @functools.cache
    def steps(device: torch.device) -> VolumePipeline:
        """Set up the pipeline of volumes, at the first volume."""
        return VolumePipeline.ready(
            config.skull_strip_mode,
            device=device,
            precision=config.precision,
            parameters=config.weights if isinstance(config.weights, Path) else None,
            spacing_mm=config.spacing_mm,
            limits=limits,
        )

    def source(scan: str) -> Any:
        """Read the source file of the scan, if it still has the recorded hash."""
        row = scans.loc[scan]
        path, options = Path(row["path"]), {"sha256": row["sha256"], "limits": limits}
        if row["kind"] == "image":
            return read_picture(path, bits=int(row["bits"]) if row["bits"] else None, **options)
        return read_volume(path, trust=row["trust"] or None, **options)

    def load(scan: str) -> Any:
        if scans.at[scan, "kind"] == "image":
            return source(scan)
        target = targets.get(scan)
        partner = None
        if target is not None and (out.failure(target, keys[target]) or {}).get("retryable"):
            raise RuntimeError(f"it is to be registered to {target}, which failed, but may not fail again")
        if target is not None and out.has(target, keys[target]):
            partner = RegistrationTarget(target, source(target), *out.load_placed(target), by=config.registration)
        return source(scan), partner

    def work(scan: str, loaded: Any) -> Any:
        if scans.at[scan, "kind"] == "image":
            return loaded
        image, partner = loaded
        chosen = {"skull_strip": scans.at[scan, "skull_strip"] == "True", "normalise": scans.at[scan, "normalise"]}
        attempts = [
            Fallback(label, functools.partial(preprocess_volume, steps(device), image, partner, **chosen))
            for label, device in ((str(runtime.device), runtime.device), ("the CPU", torch.device("cpu")))
        ]
        brain = run_with_oom_fallback(f"preprocessing of {scan}", attempts)
        if scan in targets and partner is None:
            brain.facts["not_registered"] = f"{targets[scan]} could not be used"
        return brain

    def save(scan: str, result: Any) -> Mapping[str, Any]:
        if scans.at[scan, "kind"] == "image":
            out.save_picture(scan, png_bytes(result.pixels))
            facts = {"bits": result.bits, "turned": result.turned, "remarks": result.remarks}
            return {"kind": "image", "pixels": result.pixels.shape[:2], **facts}
        out.save_volume(scan, result.volume, result.mask, result.affine, png_bytes(result.qc))
        return {"kind": "volume", **result.facts}

    nothing_is_learnt = not cohort.classes()
    return ScanJob(keys, load, work, save, second_pass=frozenset(targets), all_may_fail=nothing_is_learnt)


def _note_remarks(keys: Mapping[str, str], out: VolumeSet, runtime: Runtime) -> None:
    """Note each kind of remark in the scans' records once, with the scans that have it."""
    named: dict[str, list[str]] = {}
    for scan, key in keys.items():
        record = out.record(scan) or {}
        for remark in record.get("remarks", ()) if record.get("key") == key else ():
            named.setdefault(remark.partition(":")[0], []).append(scan)
    for kind, names in named.items():
        more = ", …" if len(names) > MOST_NAMED else ""
        runtime.note(
            f"{kind}: {len(names)} of {len(keys)} scans ({', '.join(names[:MOST_NAMED])}{more}); remarks in their "
            "record.json say more. Look at their QC pictures"
        )


def _targets(scans: pd.DataFrame, config: PreprocessConfig) -> dict[str, str]:
    """Map scans to the scan of the same observation to register them to, the first if it has several."""
    partners = config.register_to or {}
    first = scans.sort_index().drop_duplicates(["observation", "modality"])  # the index is the scan too
    first_of = dict(zip(zip(first["observation"], first["modality"], strict=True), first["scan"], strict=True))
    wanted = scans[scans["modality"].isin(partners) & (scans["kind"] == "volume")]
    pairs = {row.scan: first_of.get((row.observation, partners[row.modality])) for row in wanted.itertuples()}
    return {scan: target for scan, target in pairs.items() if target is not None}


def _keys(scans: pd.DataFrame, targets: Mapping[str, str], config: PreprocessConfig) -> dict[str, str]:
    """Map each scan to the hash of all that its result depends on: for a registered one, of the other scan too."""
    of_pairs = {"register_to", "registration"}
    settings = {name: value for name, value in result_settings(config).items() if name not in of_pairs}
    material = [STAGE.version, settings, STAGE.external_state(config)]
    own = {row.scan: [row.sha256, row.kind, row.skull_strip] for row in scans.itertuples()}
    for row in scans[~scans["normalise"].isin(["", PUBLISHED])].itertuples():  # else the key is unchanged
        own[row.scan].append(row.normalise)
    for row in scans[scans["trust"] != ""].itertuples():
        own[row.scan].append(f"trust: {row.trust}")
    for row in scans[scans["bits"] != ""].itertuples():
        own[row.scan].append({"bits": row.bits})
    partner = {scan: [own[target], config.registration] for scan, target in targets.items()}
    return {scan: digest([material, *facts, *partner.get(scan, ())]) for scan, facts in own.items()}
