"""The doctor's checks of the machine: device, memory, disk, locks, rights."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import torch

from cohort.manifest import ManifestError
from console.errors import InputError
from devices.memory import main_memory_bytes
from devices.precision import half_precision
from pipeline.core.runtime import Runtime
from pipeline.doctor import disk
from pipeline.doctor.checks import SMALL_DISK_BYTES, CheckContext, Finding, cores

LEAST_MEMORY_BYTES = 4e9  # twice what any stage was measured to take
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "fuse.sshfs", "9p", "ceph")
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def device(patient: CheckContext) -> Iterator[Finding]:
    """What there is to compute on, and what the run would take."""
    try:
        taken = Runtime(stage="", key="", device_name=patient.device, workspace=Path()).device
    except InputError as error:
        yield Finding("fail", str(error), "leave --device away")
        taken = torch.device("cpu")
    yield _processor()
    for number in range(torch.cuda.device_count()):
        yield _gpu(number)
    if torch.version.cuda is None and NVIDIA_DRIVER.exists():
        yield Finding(
            "warn",
            f"an NVIDIA driver is here, but torch {torch.__version__} is a build without CUDA",
            'install the CUDA build of the pinned torch before everything else (docs/install.md, "Which torch")',
        )
    elif torch.version.cuda is not None and not torch.cuda.is_available():
        words = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no GPU that it can use"
        yield Finding("warn", words, "look at nvidia-smi; the driver may be missing or older than this build needs")
    precision = str(half_precision(taken)).removeprefix("torch.")
    yield Finding("ok", f"--device {patient.device} takes {taken}; precision auto is {precision} there")


def _processor() -> Finding:
    memory = main_memory_bytes()
    fast = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    words = f"CPU: {cores()} cores, {disk.words(memory)} memory, {'fast' if fast else 'no fast'} bfloat16"
    if memory < LEAST_MEMORY_BYTES:
        return Finding("warn", words, f"{disk.words(LEAST_MEMORY_BYTES)} or more are advised; else runs may be killed")
    return Finding("ok", words)


def _gpu(number: int) -> Finding:
    name = torch.cuda.get_device_properties(number).name
    capability = torch.cuda.get_device_capability(number)
    words = f"GPU {number}: {name}, compute capability {capability[0]}.{capability[1]}, {_driver()}"
    built = torch.cuda.get_arch_list()
    free, total = torch.cuda.mem_get_info(number)
    words += f", {disk.words(free)} of {disk.words(total)} memory free"
    if built and not any(_runs_on(arch, capability) for arch in built):
        return Finding("fail", f"{words}; this torch has no code for it ({', '.join(built)})",
                       "take another build of the pinned torch, or --device cpu")  # fmt: skip
    if free < total / 2:
        return Finding("warn", f"{words}: another process holds the rest", "look at nvidia-smi; scans for which there "
                       "is no room are done on the CPU, slowly")  # fmt: skip
    return Finding("ok", words)


def _runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Whether code for `sm_86`, or text for `compute_90`, runs on a GPU of this capability."""
    kind, _, number = arch.partition("_")
    digits = "".join(c for c in number if c.isdigit())
    major, minor = int(digits[:-1]), int(digits[-1])
    if kind == "compute":
        return (major, minor) <= capability
    return major == capability[0] and minor <= capability[1]


def _driver() -> str:
    try:
        first = NVIDIA_DRIVER.read_text("utf-8").splitlines()[0].split()
    except (OSError, IndexError):
        return "driver unknown"
    return "driver " + next((word for word in first if word[0].isdigit()), "unknown")


def free_disk(patient: CheckContext) -> Iterator[Finding]:
    """Free room against what this cohort will take."""
    free, place = disk.free_bytes(patient.place), disk.nearest_folder(patient.place)
    try:
        scans = disk.count_scans(patient.config)
    except (ManifestError, OSError):  # its words may hold cells of the manifest
        words = f"disk: {disk.words(free)} free in {place}; how much is needed cannot be said without the manifest"
        yield Finding("warn", words, "see the line about the manifest")
        return
    parts = disk.estimate(patient.config, scans)
    told = "; stage baselines not counted"
    if patient.config.predict.model is not None:
        parts, told = {stage: size for stage, size in parts.items() if stage in disk.WITH_A_MODEL}, ""
    left = disk.bytes_left(patient.config, patient.place, parts)
    shares = ", ".join(f"{stage} {disk.words(size)}" for stage, size in parts.items())
    spacing_mm = patient.config.preprocess.spacing_mm
    words = (
        f"disk: {disk.words(free)} free in {place}; about {disk.words(left)} still to be written "
        f"({scans.source}, {spacing_mm:g} mm; in all {shares}{told})"
    )
    if free < left:
        yield Finding("fail", words, f"free {disk.words(left - free)}, or name another --workspace")
    elif free < left + SMALL_DISK_BYTES:
        yield Finding("warn", words, "it is just enough; free some space")
    else:
        yield Finding("ok", words)


def workspace(patient: CheckContext) -> Iterator[Finding]:
    """The workspace can be named so, made and written to."""
    disk.check_path(patient.place)
    place = disk.nearest_folder(patient.place)
    there = "there" if place == patient.place.absolute() else f"will be made in {place}"
    if os.path.isfile(patient.place):
        yield Finding("fail", f"workspace {patient.place} is a file, not a folder", "name another --workspace")
    elif os.access(place, os.W_OK | os.X_OK):
        yield Finding("ok", f"workspace {patient.place}: {there}, may be written to")
    else:
        yield Finding("fail", f"workspace {patient.place}: {place} may not be written to by this user",
                      "mend the rights, or name another --workspace")  # fmt: skip


def locks(patient: CheckContext) -> Iterator[Finding]:
    """The file system keeps two runs apart, and no other run is under way. Nothing is written to find out."""
    place, kind = disk.nearest_folder(patient.place), _file_system(disk.nearest_folder(patient.place))
    lock = patient.place / ".lock"
    if os.path.islink(lock):
        yield Finding("fail", f"{lock} is a link, which a run would not follow", "remove it")
        return
    try:
        if any([_is_locked(path) for path in (place, lock) if path == place or os.path.isfile(path)]):
            yield Finding("warn", f"another run is under way in {patient.place}", "wait for it; a second is refused")
            return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield Finding("warn", f"{place} ({kind}) knows no file locks: {error.strerror}",
                      "use a local disk, or make sure yourself that one run at a time works here")  # fmt: skip
        return
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("warn", f"{place} is on a network ({kind}); a lock may not be seen by other machines",
                      "start runs on one workspace from one machine only")  # fmt: skip
    else:
        yield Finding("ok", f"file locks work in {place} ({kind})")


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def rights(patient: CheckContext) -> Iterator[Finding]:
    """Whether everyone on this machine may read or change what is of patients: workspace, and folder of the manifest.

    What a run writes is for its owner; folders that are there already keep the rights that they have.
    """
    manifest = patient.config.cohort.manifest
    folders = [
        patient.place,
        *([manifest if manifest.is_dir() else manifest.parent] if isinstance(manifest, Path) else []),
    ]
    fine = True
    for folder in dict.fromkeys(place.absolute() for place in folders if os.path.isdir(place)):
        mode = folder.stat().st_mode
        reached = all(above.stat().st_mode & stat.S_IXOTH for above in folder.parents)
        may = " and ".join(w for bits, w in ((0o005, "read"), (0o002, "change")) if mode & bits)
        if reached and may:
            fine = False
            yield Finding("warn", f"everyone on this machine may {may} {folder} (mode {stat.S_IMODE(mode):04o})",
                          f"if these are patients: chmod -R o-rwx {folder}")  # fmt: skip
    if fine:
        yield Finding("ok", "what a run writes is for its owner to read, with --group-readable for the group too")


def _file_system(place: Path) -> str:
    """Type of the file system that a folder is on, as Linux says it; else "unknown"."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    real = place.resolve()
    over = [(m[1].encode().decode("unicode_escape"), m[2]) for m in mounts if len(m) > 2]
    fitting = [(len(point), kind) for point, kind in over if real.is_relative_to(point)]
    return max(fitting)[1] if fitting else "unknown"


CHECKS = (device, free_disk, workspace, locks, rights)
