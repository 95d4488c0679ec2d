"""The baselines: other ways to classify a patient from the scans there are, on the same feature maps and splits."""
