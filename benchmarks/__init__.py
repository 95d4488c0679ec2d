"""One script per question of speed or memory; `make bench` runs all."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run_pipeline.py does
