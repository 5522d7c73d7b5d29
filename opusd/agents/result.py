"""What an agent wrote for us, opened as if by an enemy: no links followed, a regular file of ours, of bounded size."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import msgspec

MAX_BYTES = 1 << 20
MAX_DEPTH = 128
NAME = "result.json"
_TOO_DEEP = f"nested more than {MAX_DEPTH} deep"


def read_result(folder: Path) -> tuple[bytes | None, str | None]:
    """The JSON text of an attempt's `out/result.json`, or why it can't be used; (None, None): there is none."""
    try:
        place = os.open(folder / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"the folder of the result can't be used: {_words(error)}"
    try:
        data = read_agent_file(NAME, place, MAX_BYTES)
    except FileNotFoundError:
        return None, None
    except OSError as error:
        return None, f"{NAME} can't be used: {_words(error)}"
    except ValueError as error:
        return None, f"{NAME} can't be used: {error}"
    finally:
        os.close(place)
    try:
        value = msgspec.json.decode(data)
        if (fault := _fault(value)) is not None:
            return None, f"{NAME} is not JSON that can be kept: {fault}"
        msgspec.json.encode(value)  # what can't be written again can't be kept
    except RecursionError:
        return None, f"{NAME} is not JSON that can be kept: {_TOO_DEEP}"
    except (msgspec.DecodeError, msgspec.EncodeError, ValueError, OverflowError) as error:
        return None, f"{NAME} is not JSON: {error}"
    return data, None


def _fault(value: object) -> str | None:
    """What the wire would refuse in this, level by level: without recursion."""
    level = [value]
    for depth in range(MAX_DEPTH + 1):
        inner: list[object] = []
        for item in level:
            if isinstance(item, str):
                if "\0" in item:
                    return "it holds a NUL character"
            elif isinstance(item, int):
                if not -(2**63) <= item < 2**63:
                    return "it holds an integer past 2^63"
            elif isinstance(item, dict | list):
                if depth == MAX_DEPTH:
                    return _TOO_DEEP
                inner += item
                if isinstance(item, dict):
                    inner += item.values()
        level = inner
    return None


def read_agent_file(name: str, place: int, limit: int) -> bytes:
    """The content of a file that an agent wrote, in an open folder; ValueError says what is wrong with it."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=place)
    try:
        info = os.fstat(file)
        if not stat.S_ISREG(info.st_mode):
            raise ValueError("it is not a regular file")
        if info.st_uid != os.geteuid():
            raise ValueError("it belongs to another user")
        if info.st_nlink != 1:
            raise ValueError("it has more than one link")
        if info.st_size > limit:
            raise ValueError(f"it is larger than {limit} bytes")
        data = bytearray()
        while len(data) <= limit and (part := os.read(file, limit + 1 - len(data))):
            data += part
    finally:
        os.close(file)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes")
    return bytes(data)


def _words(error: OSError) -> str:
    return "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or str(error)
