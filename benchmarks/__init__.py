"""One script per question of speed or memory; `make bench` runs all."""

import os

from devices.allocator import prepare_allocator

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # this and the next as run_pipeline.py does
prepare_allocator()
