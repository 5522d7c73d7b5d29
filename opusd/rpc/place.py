"""The socket's place in the file system: made so that nobody else can reach it, and never taken from one who answers.

It knows nothing of what is spoken on the socket.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

from opusd.core.errors import OpusError

PATH_LIMIT: Final = 107
"""Bytes of a path in sockaddr_un without its closing NUL."""


class PlaceRefused(OpusError):
    """The daemon can't listen there, and why. Never sent to a client."""

    name = "place_refused"


class Place:
    """A listening socket. `close` removes the path if it is still the one that was made here."""

    def __init__(self, listening: socket.socket, path: Path | None) -> None:
        self.socket = listening
        self._path = path
        self._made = _identity(path) if path is not None else None

    def close(self) -> None:
        self.socket.close()
        if self._path is not None and self._made is not None and _identity(self._path) == self._made:
            self._path.unlink(missing_ok=True)


def make(path: Path, backlog: int) -> Place:
    """Listen at `path`, mode 0600 from the first moment, in a directory that is made with mode 0700.

    A socket of ours that nobody answers is removed. PlaceRefused for a path over 107 bytes, a symbolic link, what is no
    socket, another user's socket, one that answers, and a directory in which others could put their own.
    """
    size = len(os.fsencode(path))
    if size > PATH_LIMIT:
        raise PlaceRefused(
            f"the socket's path has {size} bytes, and the system takes {PATH_LIMIT}: choose a shorter one "
            f"with --socket or $OPUSD_SOCKET, not {path}"
        )
    _make_directory(path.parent)
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # of the whole process, so for one call only
        try:
            listening.bind(os.fspath(path))
        finally:
            os.umask(before)
        listening.listen(backlog)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise PlaceRefused(f"can't listen at {path}: {error.strerror or error}") from error
    return Place(listening, path)


def exposed(path: Path) -> str | None:
    """What is wrong with a socket's directory that others may enter, in words; the socket itself is ours alone."""
    try:
        mode = stat.S_IMODE(path.parent.stat().st_mode)
    except OSError as error:
        return f"the socket's directory {path.parent} can't be looked at: {error.strerror or error}"
    return f"the socket's directory {path.parent} is open to others: chmod 700 it" if mode & 0o077 else None


def inherit(fd: int) -> Place:
    """The socket that systemd listens on for us; its path is systemd's to remove."""
    try:
        listening = socket.socket(fileno=fd)
    except OSError as error:
        raise PlaceRefused(f"the inherited descriptor {fd} is no socket: {error.strerror or error}") from error
    if listening.family != socket.AF_UNIX or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listening.detach()
        raise PlaceRefused(f"the inherited descriptor {fd} is not a listening Unix socket")
    listening.setblocking(False)
    return Place(listening, None)


def _make_directory(directory: Path) -> None:
    try:
        missing = [each for each in (directory, *directory.parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise PlaceRefused(f"can't make the socket's directory {directory}: {error.strerror or error}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise PlaceRefused(f"{directory} is no directory")
    if status.st_uid not in (os.geteuid(), 0):
        raise PlaceRefused(f"the socket's directory {directory} belongs to user {status.st_uid}")
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise PlaceRefused(f"others can write to the socket's directory {directory}: chmod 700 it, or choose another")


def _clear(path: Path) -> None:
    """Make room at the path, if what is there is ours and dead."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PlaceRefused(f"can't look at {path}: {error.strerror or error}") from error
    if stat.S_ISLNK(status.st_mode):
        raise PlaceRefused(f"{path} is a symbolic link; a socket is made only at a place of its own")
    if not stat.S_ISSOCK(status.st_mode):
        raise PlaceRefused(f"{path} is there and is no socket; it was left alone")
    if status.st_uid != os.geteuid():
        raise PlaceRefused(f"the socket {path} belongs to user {status.st_uid}; it was left alone")
    if _answers(path):
        raise PlaceRefused(f"somebody listens at {path} already")
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # EAGAIN: a listener whose backlog is full. Only a refusal proves that there is none.
        return probe.connect_ex(os.fspath(path)) not in (errno.ECONNREFUSED, errno.ENOENT)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
