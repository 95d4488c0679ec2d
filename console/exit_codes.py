"""Exit codes of commands: errors of the input or the machine end with one message, others are bugs.

Only the standard library is imported: this also has to work where packages are missing.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable

from console.errors import DISK_FULL, NOT_ALLOWED, ReaderGoneError
from console.messages import say, say_as_it_stands
from files.writing import PlantedLinkError

DONE, BUG, BAD_INPUT, SOME_SCANS_FAILED, INTERRUPTED, READER_GONE = 0, 1, 2, 3, 130, 141
USER_ERRORS = (  # with a message for the user; by name, since importing them all would take seconds
    "console.errors.InputError",
    "pipeline.store.base.ArtifactError",
    "cohort.tables.ManifestError",
    "preprocessing.errors.ScanError",
    "intake.pseudonyms.KeyFileError",
    "preprocessing.parameters.ParametersError",
    "models.weights.WeightsError",
    "files.reading.UnusableFileError",
)
PACKAGE_ERRORS = {  # errors of packages that only a damaged or planted file causes
    "safetensors._safetensors_rust.SafetensorError": "a file of weights or features is damaged ({}); run again with "
    "--force and the stage that wrote it, or copy the model again",
    "yaml.error.YAMLError": "a file is not YAML: {}",
    "json.decoder.JSONDecodeError": "a file is not JSON: {}",
    "pandas.errors.ParserError": "a table is damaged: {}",
    "pandas.errors.EmptyDataError": "a table is damaged: {}",
    "_csv.Error": "a table is damaged: {}",
    "zlib.error": "a packed file is damaged: {}",
    "builtins.UnicodeError": "a file or a name is not UTF-8 text: {}",
    "builtins.RecursionError": "a file is nested too deep ({})",
}
FILE_ERRORS = {
    errno.ENOENT: "it is not there",
    errno.EISDIR: "it is a folder; expected a file",
    errno.ENOTDIR: "a part of this path is a file; expected a folder",
    errno.EEXIST: "it is there already, and not what is needed here; move it away",
    errno.ENOTEMPTY: "it is a folder with something in it; move it away",
    errno.ELOOP: "its links lead in a ring; mend them",
    errno.ENXIO: "it is a pipe, a device or a socket; expected a file",
    errno.EIO: "the disk or the network failed; try again, or name another place",
    errno.ESTALE: "the network file system lost it; try again",
    errno.EBUSY: "something else uses it; try again",
}


def exit_code(command: Callable[[], int]) -> int:
    """Run a command; turn any error into a message and an exit code."""
    try:
        return command()
    except KeyboardInterrupt:
        say("", file=sys.stderr)  # after the ^C of the terminal
        say("stopped; run the same command again to go on where it was", file=sys.stderr)
        return INTERRUPTED
    except ReaderGoneError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return READER_GONE
    except Exception as error:  # noqa: BLE001 - the outermost handler
        if message := explained(error):
            say(f"error: {message}", file=sys.stderr)
            return BAD_INPUT
        say_as_it_stands(traceback.format_exc(), file=sys.stderr)
        say("a bug: please report it with the lines above", file=sys.stderr)
        return BUG


def explained(error: BaseException) -> str:
    """Return the message for an error that is no bug; "" if it may be one."""
    if isinstance(error, OSError):
        return _of_the_machine(error)
    if isinstance(error, UnicodeEncodeError):  # half characters: bytes of a file name
        return f"a file's name, or a setting, is not UTF-8 text: …{error.object[max(0, error.start - 60) : error.end]}"
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__]
    if any(name in USER_ERRORS for name in names):
        return str(error)
    return next((PACKAGE_ERRORS[name].format(error) for name in names if name in PACKAGE_ERRORS), "")


def _of_the_machine(error: OSError) -> str:
    if isinstance(error, PlantedLinkError):
        return f"{error.filename}: {error.strerror}"
    if error.errno in DISK_FULL:
        return f"the disk is full ({error}); free some space and run again"
    if error.errno in NOT_ALLOWED:
        return f"not allowed: {error}; mend the rights, or name another folder"
    if error.errno == errno.ENAMETOOLONG:
        return f"a path is too long for its disk, name a shorter one: {error.filename}"
    if error.errno in FILE_ERRORS and error.filename is not None:
        return f"{error.filename}: {FILE_ERRORS[error.errno]}"
    return f"{error}: {FILE_ERRORS[error.errno]}" if error.errno in (errno.EIO, errno.ESTALE) else ""
