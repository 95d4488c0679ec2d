"""Checks of the machine: device, memory, disk, locks, permissions."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import torch

from console.errors import InputError
from devices.cores import available_cores
from devices.memory import main_memory_bytes
from devices.precision import half_precision
from pipeline.core.runtime import Runtime
from pipeline.doctor import disk
from pipeline.doctor.checks import CheckContext, Finding

LEAST_MEMORY_BYTES = 4e9  # twice what any stage was measured to take
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "lustre", "beegfs", "gpfs", "fuse.sshfs", "9p", "ceph")
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def device(context: CheckContext) -> Iterator[Finding]:
    """List processor and GPUs, and the device that the run would use."""
    try:
        taken = Runtime(stage="", key="", device_name=context.device, workspace=Path()).device
    except InputError as error:
        yield Finding("fail", str(error), "leave out --device")
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
        message = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no GPU that it can use"
        yield Finding("warn", message, "look at nvidia-smi; the driver may be missing or older than this build needs")
    precision = str(half_precision(taken)).removeprefix("torch.")
    yield Finding("ok", f"--device {context.device} takes {taken}; precision auto is {precision} there")


def _processor() -> Finding:
    memory = main_memory_bytes()
    fast = torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported()
    message = (
        f"CPU: {available_cores()} cores, {disk.readable_size(memory)} memory, {'fast' if fast else 'no fast'} bfloat16"
    )
    if memory < LEAST_MEMORY_BYTES:
        return Finding(
            "warn", message, f"{disk.readable_size(LEAST_MEMORY_BYTES)} or more are advised; else runs may be killed"
        )
    return Finding("ok", message)


def _gpu(number: int) -> Finding:
    name = torch.cuda.get_device_properties(number).name
    capability = torch.cuda.get_device_capability(number)
    message = f"GPU {number}: {name}, compute capability {capability[0]}.{capability[1]}, {_driver()}"
    built = torch.cuda.get_arch_list()
    free, total = torch.cuda.mem_get_info(number)
    message += f", {disk.readable_size(free)} of {disk.readable_size(total)} memory free"
    if built and not any(_runs_on(arch, capability) for arch in built):
        return Finding("fail", f"{message}; this torch has no code for it ({', '.join(built)})",
                       "take another build of the pinned torch, or --device cpu")  # fmt: skip
    if free < total / 2:
        return Finding("warn", f"{message}: another process holds the rest", "see nvidia-smi; scans that do not fit "
                       "are processed on the CPU, slowly")  # fmt: skip
    return Finding("ok", message)


def _runs_on(arch: str, capability: tuple[int, int]) -> bool:
    """Return whether code for `sm_86`, or text for `compute_90`, runs on a GPU of this capability."""
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
    return "driver " + next((text for text in first if text[0].isdigit()), "unknown")


def free_disk(context: CheckContext) -> Iterator[Finding]:
    """Compare the free disk space with what this cohort needs."""
    learning = context.config.predict.model is None
    stages = ["preprocess", "features", *(["pretrain", "classify"] if learning else ["predict"])]
    fits, room = disk.check_room(context.config, context.workspace, [*stages, str(context.config.cohort.manifest)])
    message = f"disk: {room}" + "; stage baselines not counted" * learning
    if fits is None:
        yield Finding("warn", message, "see the line about the manifest")
    else:
        yield Finding("ok" if fits else "fail", message, "" if fits else "free some space, or name another --workspace")


def workspace(context: CheckContext) -> Iterator[Finding]:
    """Check that the workspace can be created and written to."""
    disk.check_path(context.workspace)
    folder = disk.nearest_folder(context.workspace)
    state = "exists" if folder == context.workspace.absolute() else f"will be made in {folder}"
    if os.path.isfile(context.workspace):
        yield Finding("fail", f"workspace {context.workspace} is a file, not a folder", "name another --workspace")
    elif os.access(folder, os.W_OK | os.X_OK):
        yield Finding("ok", f"workspace {context.workspace}: {state}, may be written to")
    else:
        yield Finding("fail", f"workspace {context.workspace}: {folder} may not be written to by this user",
                      "correct the permissions, or name another --workspace")  # fmt: skip


def locks(context: CheckContext) -> Iterator[Finding]:
    """Check that the file system supports locks and that no other run is active; nothing is written."""
    folder = disk.nearest_folder(context.workspace)
    kind = _file_system(folder)
    lock = context.workspace / ".lock"
    if os.path.islink(lock):
        yield Finding("fail", f"{lock} is a link, which a run would not follow", "remove it")
        return
    try:
        if any([_is_locked(path) for path in (folder, lock) if path == folder or os.path.isfile(path)]):
            yield Finding(
                "warn", f"another run is under way in {context.workspace}", "wait for it; a second is refused"
            )
            return
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        yield Finding("warn", f"{folder} ({kind}) knows no file locks: {error.strerror}",
                      "use a local disk, or make sure yourself that one run at a time works here")  # fmt: skip
        return
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding("warn", f"{folder} is on a network ({kind}); a lock may not be seen by other machines",
                      "start runs on one workspace from one machine only")  # fmt: skip
    else:
        yield Finding("ok", f"file locks work in {folder} ({kind})")


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def rights(context: CheckContext) -> Iterator[Finding]:
    """Check whether everyone on this machine may read or change the workspace or the folder of the manifest.

    A run writes files for its owner only; existing folders keep their permissions.
    """
    manifest = context.config.cohort.manifest
    folders = [
        context.workspace,
        *([manifest if manifest.is_dir() else manifest.parent] if isinstance(manifest, Path) else []),
    ]
    fine = True
    for folder in dict.fromkeys(folder.absolute() for folder in folders if os.path.isdir(folder)):
        mode = folder.stat().st_mode
        reached = all(above.stat().st_mode & stat.S_IXOTH for above in folder.parents)
        may = " and ".join(verb for bits, verb in ((0o005, "read"), (0o002, "change")) if mode & bits)
        if reached and may:
            fine = False
            yield Finding("warn", f"everyone on this machine may {may} {folder} (mode {stat.S_IMODE(mode):04o})",
                          f"if these are patients: chmod -R o-rwx {folder}")  # fmt: skip
    if fine:
        yield Finding("ok", "what a run writes is for its owner to read, with --group-readable for the group too")


def _file_system(folder: Path) -> str:
    """Return the type of the file system of a folder on Linux, or "unknown"."""
    try:
        mounts = [line.split() for line in Path("/proc/mounts").read_text("utf-8").splitlines()]
    except OSError:
        return "unknown"
    real = folder.resolve()
    over = [(m[1].encode().decode("unicode_escape"), m[2]) for m in mounts if len(m) > 2]
    fitting = [(len(point), kind) for point, kind in over if real.is_relative_to(point)]
    return max(fitting)[1] if fitting else "unknown"


CHECKS = (device, free_disk, workspace, locks, rights)
