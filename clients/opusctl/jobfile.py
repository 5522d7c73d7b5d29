"""Files of jobs: one object, a list, or JSON lines; and their cutting into batches that the daemon takes at once."""

from __future__ import annotations

import json
import sys

from opusctl.failure import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from opusctl.spec import Spec

BATCH_JOBS = 1000
BATCH_BYTES = 3 * 1024 * 1024  # a request has at most 4 MiB


def read_text(path: str, what: str) -> str:
    """The text of a file, or of stdin for `-`."""
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        raise UsageError(f"the {what} can't be read: {path}: {error.strerror or error}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"the {what} is not UTF-8: {path}: byte {error.start}") from None


def parse(text: str, path: str) -> tuple[list[Spec], bool]:
    """The jobs of a file, and whether it holds a single object. UsageError names the line or entry that is wrong."""
    if not text.strip():
        raise UsageError(f"no jobs in {path}")
    try:
        whole: Any = json.loads(text)
    except ValueError as error:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if len(lines) == 1 or not _begins_object(lines[0][1]):
            raise UsageError(f"{path} is not JSON: {error}") from None
        return [_of_line(line, number, path) for number, line in lines], False
    if isinstance(whole, dict):
        return [whole], True
    if not isinstance(whole, list) or not whole:
        raise UsageError(f"{path} holds no jobs: an object, a list of objects, or an object a line")
    for number, entry in enumerate(whole):
        if not isinstance(entry, dict):
            raise UsageError(f"{path}: entry {number} of the list is no object")
    return whole, False


def _begins_object(line: str) -> bool:
    """Is the first line an object by itself? Then the file has an object a line."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _of_line(line: str, number: int, path: str) -> Spec:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise UsageError(f"{path}, line {number}: not an object")
    return entry


def batches(specs: list[Spec]) -> Iterator[list[Spec]]:
    """The specs in order, as many at once as the daemon takes by number and by size."""
    batch: list[Spec] = []
    room = BATCH_BYTES
    for spec in specs:
        size = len(json.dumps(spec, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        if batch and (len(batch) == BATCH_JOBS or size > room):
            yield batch
            batch, room = [], BATCH_BYTES
        batch.append(spec)
        room -= size
    yield batch
