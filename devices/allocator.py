"""Memory that a layer of a network freed is kept for the next one, instead of being handed back to the kernel.

Source: mallopt(3) of glibc. Other C libraries are left as they are.
"""

import ctypes
import os

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of malloc.h
TOP_PAD_BYTES = 256 * 1024**2
SWITCH = "HYPERMM_ALLOCATOR"  # set to "system", memory is handed back at once


def keep_freed_memory() -> bool:
    """Keep freed memory within the process until `release_freed_memory`; call it before large arrays are made.

    Nothing is changed if `HYPERMM_ALLOCATOR=system` or a variable of glibc's own (`MALLOC_…`) is set.

    Returns:
        Whether it is kept.
    """
    chosen = os.environ.get(SWITCH) == "system" or any(name.startswith("MALLOC_") for name in os.environ)
    libc = None if chosen else _glibc()
    if libc is None:
        return False
    never = -1  # as an unsigned number, the largest
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, never), (M_TOP_PAD, TOP_PAD_BYTES))
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
