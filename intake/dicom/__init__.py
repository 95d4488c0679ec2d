"""Conversion of DICOM folders to NIfTI volumes and a manifest."""
