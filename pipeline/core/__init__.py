"""What every stage needs: device, progress, notes, and where a result came from."""
