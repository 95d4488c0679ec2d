"""What people read: report, comparison, patient pages, worklist; figures, tables and words."""
