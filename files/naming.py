"""Names of files that are written in one Unicode form and stand on the disk in another."""

import os
import unicodedata
from pathlib import Path


def as_on_disk(path: Path) -> Path:
    """Return an absolute path in the Unicode form in which its folders and its file stand on the disk.

    A Mac writes é as two characters (NFD), most others as one (NFC). What exists as it is written is returned so, and
    what exists in no form, or in several.
    """
    if str(path).isascii() or os.path.lexists(path):
        return path
    found = Path(path.anchor)
    for part in path.parts[1:]:
        if not os.path.lexists(found / part):
            try:
                same = [name for name in os.listdir(found) if _one_form(name) == _one_form(part)]
            except OSError:
                return path
            if len(same) != 1:
                return path
            (part,) = same
        found /= part
    return found


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)
