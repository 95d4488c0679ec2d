"""From what a scanner or an archive gives to a manifest: DICOM, BIDS, BreakHis; pseudonyms."""
