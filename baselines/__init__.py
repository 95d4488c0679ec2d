"""The baselines: other methods to classify a patient from the available scans, on the same feature maps and splits."""
