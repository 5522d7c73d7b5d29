"""What keeps a backup from being made, as its refusal: StorageUnavailable for a disk that fails alone.

What the caller can put right is InvalidParams, or Conflict. Must not know what a backup holds.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opusd.core.errors import Conflict, InvalidParams, OpusError, StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PUT_RIGHT: Final = {
    errno.ENOENT: "the folder {folder} does not exist: make it first, or name another",
    errno.ENOTDIR: "{folder} is not a folder: name a file in one",
    errno.EACCES: "the daemon may not write to the folder {folder}: name one that it may write to",
    errno.EPERM: "the daemon may not write to the folder {folder}: name one that it may write to",
    errno.EROFS: "the folder {folder} is on a read-only file system: name one that can be written to",
    errno.ENAMETOOLONG: "the name is too long: name a shorter one",
    errno.ELOOP: "{folder} leads through too many links: name the folder itself",
}


@contextmanager
def making_backup(path: Path) -> Iterator[None]:
    """An OSError inside becomes the refusal of a backup at `path`. It looks at the disk: not for the loop's thread."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> OpusError:
    if error.errno == errno.EEXIST:
        if path.is_dir():
            return InvalidParams(f"{path} is a folder: name a file in it that is not there yet", path="$.path")
        return Conflict(f"{path} is there already: a backup never overwrites, so name another file")
    what = _PUT_RIGHT.get(error.errno or 0)
    if what is not None:
        return InvalidParams(f"no backup at {path}: {what.format(folder=path.parent)}", path="$.path")
    return StorageUnavailable(f"no backup at {path}: {error.strerror or error}; the registry is as it was")
