"""Keep memory that a layer of a network freed for the next one, instead of handing it back to the kernel; on request.

Faster, and takes more memory: docs/benchmarks.md has both. Source: mallopt(3) of glibc; other C libraries are left as
they are.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
SWITCH = "KEEP_FREED_MEMORY"


def keep_freed_memory(*, asked: bool = False) -> bool:
    """Keep freed memory within the process until `release_freed_memory`, if `KEEP_FREED_MEMORY=1` is set.

    Call it before large arrays are made.

    Args:
        asked: keep it whatever the variable says, unless that is 0.

    Returns:
        Whether it is kept.
    """
    libc = _glibc() if os.environ.get(SWITCH, "1" if asked else "0") == "1" else None
    if libc is None:
        return False
    never = -1  # as an unsigned number, the largest
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, never), (M_ARENA_MAX, 1))
    return all(libc.mallopt(option, value) for option, value in settings)


def release_freed_memory() -> None:
    """Hand freed memory back to the kernel, between stages."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process, if it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None
