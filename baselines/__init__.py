"""The baselines: other ways to classify a patient from whatever scans there are, on the same feature maps and splits."""
