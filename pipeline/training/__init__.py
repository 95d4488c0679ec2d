"""What training on one repeat of the split needs: its scans, a fit that can be interrupted, its scores."""
