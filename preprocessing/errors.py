"""The error for a scan that cannot be used."""


class ScanError(ValueError):
    """This scan cannot be used as it is; the message says what was found, what was expected and what to do.

    It is about the data, so trying again without changing the file or the settings would end the same way.
    """
