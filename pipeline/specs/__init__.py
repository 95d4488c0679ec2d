"""What each stage is: its settings, what it reads and writes, its version. Nothing heavy is imported here."""
