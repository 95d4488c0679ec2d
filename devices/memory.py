"""How much main memory there is."""

import os
from pathlib import Path

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def main_memory_bytes() -> int:
    """Bytes of the machine, or of its container if that may have less."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [Path(file).read_text().strip() for file in CGROUP_LIMITS if os.path.exists(file)]
    return min([memory, *(int(limit) for limit in limits if limit.isdigit())])
