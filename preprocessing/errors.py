"""Errors for scans that cannot be used."""


class ScanError(ValueError):
    """This scan cannot be used as it is; the message says what was found, what was expected and what to do.

    It is about the data: without a change to the file or the settings it is raised again.
    """


class ChangedFileError(Exception):
    """The file is not the one that was hashed; hashing it again may help."""


class MemoryLimitError(Exception):
    """The scan takes more memory than it may; a higher limit or a larger machine may help.

    It is raised before the memory is allocated.
    """
