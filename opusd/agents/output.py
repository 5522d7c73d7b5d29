"""Reading an attempt's output: offsets count bytes as written, holes are skipped, characters stay whole.

Blocking, short reads of one file; the pool calls them in a thread. Must not know who reads, or whether more comes
unless it is told.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from msgspec.structs import replace

from opusd.agents.spec import Chunk

TAIL_BYTES = 2048
VERIFY = "verify.log"
_LONGEST_CHARACTER = 4


def read_chunk(path: Path, offset: int, limit: int, *, over: bool) -> Chunk:
    """At most `limit` bytes from `offset` on; `over` says that nothing will be written any more.

    Bytes that are no UTF-8 become U+FFFD. A character that is not complete yet is left for the next chunk. An
    offset beyond the end means that the log was cut short: the chunk begins at 0 and says so.
    """
    offset = max(0, offset)
    limit = max(limit, _LONGEST_CHARACTER)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return Chunk(data="", offset=offset, next_offset=offset, eof=over)
    try:
        size = os.fstat(file).st_size
        truncated = offset > size
        begin = _data_from(file, 0 if truncated else offset, size)
        dropped = begin - (0 if truncated else offset)
        data = b""
        if begin < size:
            end = min(size, begin + limit, _hole_from(file, begin, size))
            data = os.pread(file, end - begin, begin)
    finally:
        os.close(file)
    if dropped:  # the hole may have taken the beginning of a character
        inside = _continuation_bytes(data)
        data, begin, dropped = data[inside:], begin + inside, dropped + inside
    read_to = begin + len(data)
    at_hole = read_to < size and len(data) < limit  # what is cut there stays cut
    at_end = over and read_to >= size
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=at_hole or at_end)
    left = len(decoder.getstate()[0])
    return Chunk(data=text, offset=begin, next_offset=read_to - left, dropped=dropped, eof=at_end, truncated=truncated)


def growing(path: Path) -> Path:
    """Which of the two logs is being written to: once there is that of the verification, the agent's is whole."""
    verify = path.with_name(VERIFY)
    return verify if verify.exists() else path


def read_part(path: Path, offset: int, limit: int, *, over: bool) -> Chunk:
    """As `read_chunk`, of the agent's log and what follows it: that of the verification, when there was one."""
    verify = growing(path)
    if verify == path:
        return read_chunk(path, offset, limit, over=over)
    size = size_of(path)
    chunk = read_chunk(path, offset, limit, over=True)
    if offset < size or chunk.truncated:
        return replace(chunk, eof=False)
    chunk = read_chunk(verify, offset - size, limit, over=over)
    return replace(chunk, offset=chunk.offset + size, next_offset=chunk.next_offset + size, verify=True)


def verify_text(path: Path, limit: int) -> str:
    """The end of what a verification printed, without the line that the shim put before it."""
    text = last_text(path.with_name(VERIFY), limit)
    title = text.removeprefix("\n")
    return title.partition("\n")[2] if title.startswith("--- verify: ") else text


def last_text(path: Path, limit: int = TAIL_BYTES) -> str:
    """The last bytes of a log as text that begins with a whole character."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        size = os.fstat(file).st_size
        begin = max(0, size - limit)
        data = os.pread(file, size - begin, begin)
    finally:
        os.close(file)
    if begin:
        data = data[_continuation_bytes(data) :]
    return data.decode("utf-8", "replace")


def size_of(path: Path) -> int:
    """Bytes as written, 0 when there is no log."""
    try:
        return path.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def size_of_all(path: Path) -> int:
    """Bytes of an attempt's output as written, that of its verification among them."""
    return size_of(path) + size_of(path.with_name(VERIFY))


def _data_from(file: int, offset: int, size: int) -> int:
    """The first byte at or after `offset` that is kept."""
    try:
        return min(os.lseek(file, offset, os.SEEK_DATA), size)
    except OSError:  # ENXIO: nothing but a hole up to the end
        return size


def _hole_from(file: int, offset: int, size: int) -> int:
    try:
        return os.lseek(file, offset, os.SEEK_HOLE)
    except OSError:
        return size


def _continuation_bytes(data: bytes) -> int:
    count = 0
    while count < min(len(data), _LONGEST_CHARACTER - 1) and 0x80 <= data[count] < 0xC0:
        count += 1
    return count
