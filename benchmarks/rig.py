"""A daemon of one's own, and a client that counts: what every benchmark here stands on.

The daemon is the real one (`python -m opusd`) in a folder of its own, spoken to over its socket in lines of
JSON. The client is the standard library alone and blocking, so that what is measured is the daemon.
"""

from __future__ import annotations

import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent


class Refused(Exception):
    """The daemon answered with an error."""


class Client:
    """One connection. Replies are matched by id; `latencies` are the seconds of the calls of the last `many`."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.setblocking(False)
        self._begun: list[bytes] = []  # of a line that is not all here
        self._lines: deque[bytes] = deque()
        self._last = 0
        self.latencies: list[float] = []

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, **params: Any) -> Any:
        """One call, answered."""
        self._send(method, params)
        return self._receive()[1]

    def one_by_one(self, method: str, each: Iterable[dict[str, Any]]) -> list[Any]:
        """As a client that waits for every reply; the results in order."""
        return self.many(method, each, in_flight=1)

    def many(self, method: str, each: Iterable[dict[str, Any]], *, in_flight: int) -> list[Any]:
        """With so many calls in flight; the results in the order of the calls."""
        todo = iter(each)
        first = self._last + 1
        sent: dict[int, float] = {}
        results: dict[int, Any] = {}
        self.latencies = []

        def send_next() -> None:
            for params in todo:
                sent[self._last + 1] = time.perf_counter()
                self._send(method, params)
                return

        for _ in range(in_flight):
            send_next()
        while sent:
            number, result = self._receive()
            self.latencies.append(time.perf_counter() - sent.pop(number))
            results[number] = result
            send_next()
        return [results[number] for number in range(first, self._last + 1)]

    def event(self) -> dict[str, Any]:
        """The next event of a subscription; call nothing more on this connection."""
        message = self._next()
        if message["method"] != "event":
            raise Refused(f"the subscription ended: {message}")
        found: dict[str, Any] = message["params"]["event"]
        return found

    def _send(self, method: str, params: dict[str, Any]) -> None:
        self._last += 1
        message = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params}
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:  # it reads on when its replies are taken
                readable, _, _ = select.select([self._socket], [self._socket], [])
                if readable:
                    self._read()

    def _read(self) -> None:
        data = self._socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the daemon closed the connection: its log says why")
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._begun, lines[0]])
            self._begun.clear()
            self._lines += lines
        if rest:
            self._begun.append(rest)

    def _next(self) -> dict[str, Any]:
        while not self._lines:
            select.select([self._socket], [], [])
            self._read()
        message: dict[str, Any] = json.loads(self._lines.popleft())
        return message

    def _receive(self) -> tuple[int, Any]:
        reply = self._next()
        if "error" in reply:
            raise Refused(f"{reply['error']}")
        return reply["id"], reply["result"]


class Daemon:
    """opusd in `folder`, which it makes. `start` gives the seconds until it answered for the first time.

    `watched`: an orderly end leaves in `pauses` how long its cyclic collector stopped it (watched.py).
    """

    def __init__(self, folder: Path, config: str, *, watched: bool = False) -> None:
        self.folder = folder
        self.socket = folder / "s"
        self.database = folder / "state" / "opusd.db"
        self.log = folder / "log"
        self.pauses = folder / "pauses"
        self._program = [str(_ROOT / "benchmarks" / "watched.py"), str(self.pauses)] if watched else ["-m", "opusd"]
        self._config = folder / "config.toml"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(mode=0o700)
        self._config.write_text(config)
        self._config.chmod(0o600)

    def start(self, seconds: float = 120.0) -> float:
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPUS", "NOTIFY_"))}
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        argv = [sys.executable, *self._program, "--config", str(self._config), "--log-level", "warning"]
        argv += ["--state-dir", str(self.folder / "state"), "--socket", str(self.socket)]
        begun = time.perf_counter()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, env=environment, cwd=_ROOT, stdin=subprocess.DEVNULL, stderr=log)
        while True:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                client = Client(self.socket)
                client.call("system.ping")
                client.close()
                return time.perf_counter() - begun
            if self._process.poll() is not None or time.perf_counter() - begun > seconds:
                raise RuntimeError(f"the daemon did not start:\n{self.log.read_text()}")
            time.sleep(0.005)

    def stop(self, how: int = signal.SIGTERM) -> float:
        """End it and wait; the seconds that took."""
        begun = time.perf_counter()
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(120)
            self._process = None
        return time.perf_counter() - begun

    def client(self) -> Client:
        return Client(self.socket)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def memory(self) -> tuple[int, int]:
        """(resident now, the most it ever was) of the daemon's own process, in bytes."""
        found = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        now, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def processor(self) -> float:
        """Seconds of processor that its threads have had so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def on_disk(self) -> tuple[int, int]:
        """(database, write-ahead log), in bytes."""
        log = Path(f"{self.database}-wal")
        return self.database.stat().st_size, log.stat().st_size if log.exists() else 0


@contextmanager
def on_one_processor(*daemons: Daemon) -> Iterator[None]:
    """Meanwhile this program and these daemons share a processor; their agents do not.

    A call of 50 us takes 100 when each waits on a processor of its own that has to be woken. Where the kernel puts
    them changes from one minute to the next, for each daemon by itself, and would be measured as the daemon's doing.
    """
    allowed = os.sched_getaffinity(0)
    try:
        _confine({max(allowed)}, daemons)
        yield
    finally:
        _confine(allowed, daemons)


def _confine(processors: set[int], daemons: Iterable[Daemon]) -> None:
    os.sched_setaffinity(0, processors)
    for daemon in daemons:
        for thread in Path(f"/proc/{daemon.pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it is over
                os.sched_setaffinity(int(thread.name), processors)


def scratch(benchmark: str, place: str) -> Path:
    """A folder of its own in `place`; ends the program with 2 where that is in memory, for nothing is durable there."""
    folder = Path(tempfile.mkdtemp(prefix=f"opusd-{benchmark}-", dir=place))
    if _in_memory(folder):
        folder.rmdir()
        print(f"{place} is in memory, where a commit costs nothing: name a folder on a disk by --dir")
        sys.exit(2)
    return folder


def _in_memory(folder: Path) -> bool:
    """Whether this folder is on a file system that never reaches a disk, where fsync costs nothing."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], check=True, capture_output=True, text=True)
    return kind.stdout.strip() in ("tmpfs", "ramfs")


def machine(folder: Path) -> str:
    """What was measured on, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{os.cpu_count()} processors ({_processor()}), {memory / 2**30:.0f} GiB, Linux {platform.release()}, "
        f"{_file_system(folder)}, Python {sys.version.split()[0]}"
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind = line.split()[:3]
        if folder.is_relative_to(place) and len(place) >= len(best[0]):
            best = (place, kind)
    return best[1]


def chunks(total: int, size: int) -> Iterator[int]:
    """`total` in pieces of `size`, and what is left."""
    yield from [size] * (total // size)
    if total % size:
        yield total % size
