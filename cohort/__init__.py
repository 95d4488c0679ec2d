"""The cohort: manifest, splits and missing scans."""
