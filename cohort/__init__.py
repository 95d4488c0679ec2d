"""Who is studied: the manifest, the splits, and which scans are missing."""
