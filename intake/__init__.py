"""Import of DICOM, BIDS and BreakHis data to a manifest; pseudonyms."""
