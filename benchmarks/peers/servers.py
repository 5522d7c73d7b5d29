"""The servers of the peers: each in a folder of its own, on a Unix socket, durable, and ended by its process."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


class Missing(Exception):
    """This program is not on the machine."""


class Server:
    """`start` gives the seconds until `ready` said so for the first time."""

    def __init__(
        self, folder: Path, ready: Callable[[], bool], argv: list[str], end: int = signal.SIGTERM, **how: Any
    ) -> None:
        self.folder = folder
        self._end = end
        self._ready = ready
        self._argv = argv
        self._how = how
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str, seconds: float = 300.0) -> float:
        begun = time.perf_counter()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._argv, *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._how
            )
        while not self._ready():
            if self._process.poll() is not None or time.perf_counter() - begun > seconds:
                log_text = (self.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self._argv[0]} did not start:\n{log_text}")
            time.sleep(0.005)
        return time.perf_counter() - begun

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(self._end)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def beanstalkd(folder: Path) -> Server:
    """Without `-f`; `start("-f0")` synchronises each write, `start("-F")` none."""
    (folder / "log.d").mkdir(parents=True)
    path = folder / "s"
    argv = [_program("beanstalkd"), "-l", f"unix:{path}", "-b", str(folder / "log.d")]

    def ready() -> bool:
        return _answers(path, b"peek 0\r\n", b"NOT_FOUND")

    return Server(folder, ready, argv)


def bare(folder: Path, registry: Path, daemon: Path) -> Server:
    """The bare queue: it takes its rows and its replies from opusd's."""
    folder.mkdir()
    path = folder / "s"
    argv = [sys.executable, "-m", "peers.bare", str(path), str(folder / "bare.db"), str(registry), str(daemon)]
    ping = b'{"id":1,"method":"system.ping","params":{}}\n'
    return Server(folder, lambda: _answers(path, ping, b"{"), argv, cwd=Path(__file__).resolve().parents[1])


def redis(folder: Path) -> Server:
    """Synchronised at each write before it is answered."""
    folder.mkdir()
    path = folder / "s"
    argv = [_program("redis-server"), "--port", "0", "--unixsocket", str(path), "--dir", str(folder)]
    argv += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"]
    return Server(folder, lambda: _answers(path, b"PING\r\n", b"+PONG"), argv)


def postgresql(folder: Path) -> Server:
    """With its defaults, so durable; PostgreSQL refuses root, so it is another user's then."""
    found = shutil.which("initdb")
    programs = [Path(found).resolve().parent] if found else []
    # Debian keeps them out of the way of other versions.
    programs += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not programs:
        raise Missing("postgres")
    folder.mkdir(mode=0o700)
    how: dict[str, Any] = {}
    if os.geteuid() == 0:
        user = next((name for name in ("postgres", "nobody") if _known(name)), "nobody")
        os.chown(folder, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        how = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    data = folder / "data"
    subprocess.run(
        [str(programs[-1] / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8"],
        check=True,
        capture_output=True,
        cwd=folder,
        **how,
    )
    argv = [str(programs[-1] / "postgres"), "-D", str(data), "-k", str(folder), "-c", "listen_addresses="]

    def ready() -> bool:
        check = [str(programs[-1] / "pg_isready"), "-q", "-h", str(folder)]
        return subprocess.run(check, check=False).returncode == 0

    return Server(folder, ready, argv, signal.SIGINT, cwd=folder, **how)  # which waits for no connection's end


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin")
    if found is None:
        raise Missing(name)
    return found


def _known(user: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(user))
    return False


def _answers(path: Path, request: bytes, reply: bytes) -> bool:
    with socket.socket(socket.AF_UNIX) as peer, suppress(FileNotFoundError, ConnectionRefusedError):
        peer.connect(str(path))
        peer.sendall(request)
        return peer.recv(1 << 10).startswith(reply)
    return False
