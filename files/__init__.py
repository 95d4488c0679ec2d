"""Safe reading and writing of files: no file can hang, flood or mislead the program."""
