"""The comparators: other ways to classify a patient from whatever scans there are, on the same blocks and splits."""
