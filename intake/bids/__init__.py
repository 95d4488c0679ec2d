"""From a BIDS data set to a manifest, and from preprocessed scans to BIDS derivatives."""
