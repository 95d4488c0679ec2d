"""Is the GPU right, and how fast is it? `python -m benchmarks.gpu_check`; docs/gpu.md says how and on what.

On a machine without SimpleITK a stand-in is imported in its place: its wheel is too large for the kit, and what needs
it (registration, MetaImage and NRRD files) runs on the CPU and is not checked here.
"""

import os
import sys
from unittest.mock import MagicMock

try:
    import SimpleITK  # noqa: F401
except ImportError:
    sys.modules["SimpleITK"] = MagicMock(name="SimpleITK")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; else cuBLAS gives no same bytes
