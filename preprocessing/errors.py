"""The errors for a scan that cannot be used."""


class ScanError(ValueError):
    """This scan cannot be used as it is; the message says what was found, what was expected and what to do.

    It is about the data, so trying again without changing the file or the settings would end the same way.
    """


class ChangedFileError(Exception):
    """The file is not the one that was hashed; another try, after hashing again, may end differently."""


class MemoryLimitError(Exception):
    """The scan takes more memory than it may; with a higher limit, or on a larger machine, it may go well.

    It is raised before that memory is taken.
    """
