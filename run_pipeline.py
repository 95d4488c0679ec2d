#!/usr/bin/env python3
"""Run the pipeline; see `--help`. The command line is implemented in pipeline/cli."""

import os
import sys

from console.messages import make_streams_safe, show_warnings_safely
from devices.allocator import prepare_allocator
from pipeline.cli.main import main

# Before torch is imported: docs/decisions/0006-idle-threads-sleep.md
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if __name__ == "__main__":
    prepare_allocator()
    make_streams_safe()
    show_warnings_safely()
    sys.exit(main(sys.argv[1:]))
