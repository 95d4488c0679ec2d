"""Federation: what sites agree on, their files, and the keys of their masks."""
