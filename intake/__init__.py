"""Import of DICOM, BIDS, BreakHis and LGG data to a manifest; pseudonyms."""
