"""Who is at the other end of a connection (contract, section 8), from a few reads of /proc.

Evidence only ever lowers rights: whoever may be a job's agent is one, and who can't be looked at is an
agent without a job. This guards against accidents, not against a program bent on harm under our own user.
Which attempts there are is asked of whoever made this, never known here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

from opusd.core.access import Caller
from opusd.core.errors import Forbidden

Of: TypeAlias = tuple[int, int]
"""(job, attempt)"""

_SO_PEERPIDFD: Final = 77
_NO_SUCH_OPTION: Final = (errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP)
_DEEPEST: Final = 100
_SCOPE: Final = re.compile(r"opus-(\d{1,18})-(\d{1,18})\.scope")
_ATTEMPT_ID: Final = re.compile(rb"(?:^|\0)OPUS_ATTEMPT_ID=([^\0]*)")


class _UnresolvedError(Exception):
    """The process went away, changed its parent while we looked, or may not be looked at."""


class Callers:
    """`identify` for a new connection; `lower` for the token of `system.hello`.

    attempt_of(pid): the running attempt whose shim has this pid; the pid is known to be of a process that lives
    now. attempt_by_id and attempt_by_token: the running attempt with this OPUS_ATTEMPT_ID or OPUS_TOKEN. Each
    gives None when there is none. held_by(pid): the attempts that this worker's process holds. `uid` is ours.
    """

    def __init__(
        self,
        *,
        attempt_of: Callable[[int], Of | None],
        attempt_by_id: Callable[[str], Of | None],
        attempt_by_token: Callable[[str], Of | None],
        held_by: Callable[[int], list[Of]],
        uid: int | None = None,
        proc: Path = Path("/proc"),
    ) -> None:
        self._attempt_of = attempt_of
        self._attempt_by_id = attempt_by_id
        self._attempt_by_token = attempt_by_token
        self._held_by = held_by
        self._uid = os.geteuid() if uid is None else uid
        self._proc = proc

    def identify(self, peer: socket.socket) -> Caller:
        """The caller; Forbidden for another user than ours and root."""
        pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid not in (self._uid, 0):
            raise Forbidden(f"the daemon of user {self._uid} does not answer user {uid}")
        stranger = Caller(uid=uid, pid=pid, agent=True)
        if pid <= 0:  # it lives in a namespace of processes that we can't see
            return stranger
        try:
            with _peer_pidfd(peer) as pidfd:
                started = self._stat(pid)[1]
                of, agent = self._evidence(pid, foreign=uid != self._uid)
                # Was all of that about the process which connected, and not about a later one with its number?
                if pidfd is None and self._stat(pid)[1] != started:
                    return stranger
                if pidfd is not None and _ended(pidfd):
                    return stranger
        except (_UnresolvedError, OSError, ValueError):
            return stranger
        if of is not None:
            return Caller(uid=uid, pid=pid, agent=True, job=of[0], attempt=of[1])
        return stranger if agent else Caller(uid=uid, pid=pid, start=started)

    def lower(self, caller: Caller, token: str) -> Caller:
        """The caller after it showed a token: that attempt's agent, unless it is known as another's already."""
        if caller.agent and caller.job is not None:
            return caller
        of = self._attempt_by_token(token)
        job, attempt = of if of is not None else (None, None)
        return Caller(uid=caller.uid, pid=caller.pid, agent=True, job=job, attempt=attempt)

    def _evidence(self, pid: int, *, foreign: bool) -> tuple[Of | None, bool]:
        """The attempt it belongs to, and whether it is an agent's at all."""
        chain = self._chain(pid)
        for each in chain:
            if (of := self._attempt_of(each)) is not None:
                return of, True
        if scopes := _SCOPE.findall(self._read(pid, "cgroup").decode("utf-8", "replace")):
            return (int(scopes[-1][0]), int(scopes[-1][1])), True
        agent = False
        for each in chain:
            try:
                environ = self._read(each, "environ")
            except PermissionError:
                if each == pid and not foreign:
                    raise  # our own user's process that hides: can't be resolved
                continue  # a login, or root: their environment is no evidence
            if (found := _ATTEMPT_ID.search(environ)) is not None:
                agent = True
                if (of := self._attempt_by_id(found[1].decode("utf-8", "replace"))) is not None:
                    return of, True
        for parent in chain[1:]:  # the worker itself is no agent, what it starts is
            if held := self._held_by(parent):
                return held[0] if len(held) == 1 else None, True
        return None, agent

    def _chain(self, pid: int) -> list[int]:
        """The process and its ancestors. A parent that ended while we looked has given its children to another."""
        chain = [pid]
        while len(chain) < _DEEPEST:
            child = chain[-1]
            for _ in range(3):
                parent = self._stat(child)[0]
                if parent <= 1:
                    return chain
                with contextlib.suppress(_UnresolvedError):
                    self._stat(parent)
                    if self._stat(child)[0] == parent:
                        chain.append(parent)
                        break
            else:
                raise _UnresolvedError
        raise _UnresolvedError

    def _stat(self, pid: int) -> tuple[int, int]:
        """(parent, start time in ticks) from /proc/PID/stat; the name in it ends at the last `)`."""
        fields = self._read(pid, "stat").rpartition(b")")[2].split()
        return int(fields[1]), int(fields[19])

    def _read(self, pid: int, name: str) -> bytes:
        try:
            return (self._proc / str(pid) / name).read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            raise _UnresolvedError from None


@contextlib.contextmanager
def _peer_pidfd(peer: socket.socket) -> Iterator[int | None]:
    """A pidfd of the process that connected, or None where the kernel has none; OSError when it is gone."""
    try:
        pidfd = peer.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno not in _NO_SUCH_OPTION:
            raise
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
