"""Size of the main memory."""

import os
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def main_memory_bytes() -> int:
    """Return the main memory of the machine, or of its container if that is less, in bytes."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(file).read_text().strip() for file in CGROUP_LIMITS if os.path.exists(file)]
    return min([memory, *(int(limit) for limit in limits if limit.isdigit())])
