"""From a folder of DICOM files to NIfTI volumes and a manifest."""
