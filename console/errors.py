"""Errors with messages for the user, and groups of system error numbers."""

import contextlib
import errno
from collections.abc import Iterator

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room, no quota, no larger file allowed


class InputError(ValueError):
    """The input or the settings are wrong; the message says what to change. Ends the run with exit code 2."""


class ReaderGoneError(Exception):
    """Whoever read the output, such as `head`, has closed it."""


class PreconditionError(InputError):
    """An `InputError` raised before the stage changed any file; its earlier results stay valid."""


@contextlib.contextmanager
def nothing_changed_yet() -> Iterator[None]:
    """Make every `InputError` a `PreconditionError`; for the part of a stage before it changes any of its files."""
    try:
        yield
    except PreconditionError:
        raise
    except InputError as error:
        raise PreconditionError(str(error)) from error
