"""Manifests of BIDS data sets, and BIDS derivatives of preprocessed scans."""
