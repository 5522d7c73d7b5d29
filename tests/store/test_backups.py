"""What keeps a backup from being made is said to whom it concerns: the caller, or who looks after the disk."""

import errno
import os

import pytest

from opusd.core.errors import Conflict, InvalidParams, StorageUnavailable
from opusd.store.backups import making_backup


def refusal(path, number):
    with pytest.raises((InvalidParams, Conflict, StorageUnavailable)) as caught, making_backup(path):
        raise OSError(number, os.strerror(number), str(path))
    return caught.value


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOENT, "{folder} does not exist: make it first"),
        (errno.ENOTDIR, "{folder} is not a folder"),
        (errno.EACCES, "may not write to the folder {folder}"),
        (errno.EPERM, "may not write to the folder {folder}"),
        (errno.EROFS, "{folder} is on a read-only file system"),
        (errno.ENAMETOOLONG, "name a shorter one"),
        (errno.ELOOP, "too many links"),
    ],
)
def test_a_path_that_can_hold_no_backup_is_named_with_what_to_do(tmp_path, number, what):
    error = refusal(tmp_path / "copy.db", number)
    assert type(error) is InvalidParams
    assert error.data == {"path": "$.path"}
    assert what.format(folder=tmp_path) in error.message


def test_a_file_that_is_there_is_a_conflict_and_a_folder_is_no_place_for_one(tmp_path):
    assert type(refusal(tmp_path / "copy.db", errno.EEXIST)) is Conflict
    assert type(refusal(tmp_path, errno.EEXIST)) is InvalidParams


def test_a_disk_that_fails_is_not_the_callers_fault_nor_the_registrys(tmp_path):
    error = refusal(tmp_path / "copy.db", errno.ENOSPC)
    assert type(error) is StorageUnavailable
    assert "No space left on device; the registry is as it was" in error.message


def test_what_is_not_the_systems_error_passes(tmp_path):
    with pytest.raises(ZeroDivisionError), making_backup(tmp_path):
        raise ZeroDivisionError
