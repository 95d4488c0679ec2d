"""What stages write and read: each artifact owns its file names and checks what goes in and what comes out."""
