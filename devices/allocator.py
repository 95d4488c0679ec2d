"""How main memory is handed out: large tensors on huge pages, and freed memory kept on request.

A network's layers each make tensors of up to hundreds of megabytes, whose pages the kernel prepares one by one at first
touch. Pages of 2 MB instead of 4 kB take no more memory. To keep freed memory for the next layer is faster still, but
takes up to twice as much: docs/benchmarks.md has both.

Source: torch's THP_MEM_ALLOC_ENABLE (Linux, where transparent huge pages are "madvise" or "always"); mallopt(3) of
glibc. Elsewhere nothing changes.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of malloc.h
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
KEEP = "KEEP_FREED_MEMORY"


def prepare_allocator(*, keep: bool = False) -> bool:
    """Put large tensors on huge pages, unless `THP_MEM_ALLOC_ENABLE=0` is set, and keep freed memory on request.

    Call it before the first tensor is made: torch reads the variable once.

    Args:
        keep: keep freed memory, unless `KEEP_FREED_MEMORY=0` is set.

    Returns:
        Whether freed memory is kept until `release_freed_memory`; `KEEP_FREED_MEMORY=1` asks for it.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    libc = _glibc() if os.environ.get(KEEP, "1" if keep else "0") == "1" else None
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
