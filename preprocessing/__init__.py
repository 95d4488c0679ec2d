"""One scan: skull strip, resample, normalise; voxels in, voxels out."""
