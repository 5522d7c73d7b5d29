"""opusd beside beanstalkd, Huey, RQ, arq, SAQ, Dramatiq, Celery, procrastinate, and the limits of the machine.

Every queue with its own server on a socket of its own, durable, on the same disk; all measured by turns in the same
run. Ends with 1 when a target is missed, 2 when it can't measure here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from rig import Daemon, scratch

from peers import life, long, report, rows, servers, standing
from peers.figures import Row
from peers.install import LIBRARIES, python_of
from peers.subject import Subject

PARTS = ("queues", "idle", "standing", "agents", "long")


class House:
    """All servers and drivers of a run; `close` ends every one."""

    def __init__(self, folder: Path, wanted: list[str]) -> None:
        self.folder = folder
        self.subjects: dict[str, Subject] = {}
        self.missing: list[str] = []
        self.redis: servers.Server | None = None
        self._servers: list[servers.Server] = []
        self._wanted = wanted
        self._daemon = Daemon(folder / "opusd", standing.CONFIG)

    def open(self, run: report.Run) -> None:
        self._daemon.start()
        self._drive("opusd", sys.executable, str(self._daemon.socket))
        bare = servers.bare(self.folder / "bare", self._daemon.database, self._daemon.socket)
        self._servers.append(bare)
        bare.start()
        self._drive("bare", sys.executable, str(bare.folder / "s"))
        self._open_beanstalkd()
        (self.folder / "huey").mkdir()
        self._library("huey", str(self.folder / "huey"))
        if set(rows.REDIS) & set(self._wanted):
            self.redis = self._server("redis-server, for " + ", ".join(rows.REDIS), servers.redis, "redis")
        for name in rows.REDIS:
            if self.redis is not None:
                self._library(name, str(self.folder / "redis" / "s"))
        if "procrastinate" in self._wanted and self._server("postgres", servers.postgresql, "pg") is not None:
            self._library("procrastinate", str(self.folder / "pg"))
        (self.folder / "limits").mkdir()
        self._drive("limits", sys.executable, str(self.folder / "limits"), str(self._daemon.database))
        run.versions += [subject.versions for subject in self.subjects.values()]
        if self.redis is not None:
            run.versions.append(_version("redis-server"))
        run.missing += self.missing

    def close(self) -> None:
        for subject in self.subjects.values():
            subject.close()
        for server in self._servers:
            server.stop()
        self._daemon.stop(signal.SIGKILL)

    def _open_beanstalkd(self) -> None:
        if "beanstalkd" in self._wanted and self._server("beanstalkd", servers.beanstalkd, "beanstalkd", "-f0"):
            self._drive("beanstalkd", sys.executable, str(self.folder / "beanstalkd" / "s"))

    def _server(self, what: str, make: object, place: str, *more: str) -> servers.Server | None:
        assert callable(make)
        try:
            server: servers.Server = make(self.folder / place)
            self._servers.append(server)
            server.start(*more)
        except servers.Missing as error:
            self.missing.append(f"{what}: there is no program {error} here")
            print(self.missing[-1], flush=True)
            return None
        return server

    def _library(self, name: str, *arguments: str) -> None:
        if name not in self._wanted:
            return
        try:
            python = python_of(name)
        except subprocess.CalledProcessError as error:
            why = (error.stderr or b"").decode(errors="replace").strip().splitlines()[-1:]
            self.missing.append(f"{name} could not be installed: {' '.join(why)}")
            print(self.missing[-1], flush=True)
            return
        self._drive(name, python, *arguments)

    def _drive(self, name: str, python: str, *arguments: str) -> None:
        self.subjects[name] = Subject(name, report.LABELS.get(name, name), python, *arguments)


def main() -> int:
    options = _parser().parse_args()
    if options.quick:
        options.rounds, options.seconds, options.queued = min(options.rounds, 2), 0.2, min(options.queued, 20_000)
    folder = scratch("peers", options.dir)
    folder.chmod(0o711)  # PostgreSQL, as another user, goes through
    run = report.Run(folder, options.rounds, options.seconds, load=[os.getloadavg()[0]], notes=options.note)
    run.when = time.strftime("%Y-%m-%d")
    print(f"{run.machine()}, load {run.load[0]:.1f}, in {folder}")
    house = House(folder, options.only)
    try:
        house.open(run)
        print("; ".join(run.versions), flush=True)
        measured = _measure(house, options)
    finally:
        house.close()
        shutil.rmtree(folder)
    run.load.append(os.getloadavg()[0])
    missed = report.show(measured)
    if options.report:
        report.write(measured, run, options.report)
        print(f"written: {options.report}")
    return 1 if missed else 0


def _measure(house: House, options: argparse.Namespace) -> list[Row]:
    measured: list[Row] = []
    lines = [line for line in rows.lines() if not options.rows or line.row.key in options.rows]
    for number in range(options.rounds + 1):
        kept = number > 0  # what is done for the first time is not what is asked for
        if "queues" in options.parts:
            rows.measure(house.subjects, lines, options.seconds if kept else 0.1, keep=kept)
        if "idle" in options.parts:
            rows.measure_idle(house.subjects, 40 if options.quick or not kept else 300, keep=kept)
        print(f"round {number} of {options.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
    if "queues" in options.parts:
        measured += [line.row for line in lines]
        measured.append(rows.FSYNC)
    if "idle" in options.parts:
        measured += [rows.P50, rows.P99]
    if "standing" in options.parts:
        print(f"filling with {options.queued:,} jobs", flush=True)
        measured += standing.measure(
            house.folder / "standing", options.queued, options.rounds, house.subjects, house.redis
        )
    if "agents" in options.parts:
        few = options.quick
        measured += life.measure(house.folder / "life", 40 if few else 400, 20 if few else 100, options.rounds)
    if "long" in options.parts:
        print(f"filling with {options.queued:,} jobs, beside {long.SHORT:,}", flush=True)
        measured += long.measure(house.folder / "long", options.queued, options.rounds)
    return measured


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return " ".join(said.split()[:3]).replace("v=", "")


def _words(text: str) -> list[str]:
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", 1)[0])
    every = ["beanstalkd", *LIBRARIES]
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="a line and queue in each round")
    parser.add_argument("--queued", type=int, default=1_000_000, metavar="JOBS", help="for restart, memory and long")
    parser.add_argument("--only", type=_words, default=every, metavar="PEERS", help=f"of {','.join(every)}")
    parser.add_argument("--parts", type=_words, default=list(PARTS), metavar="PARTS", help=f"of {','.join(PARTS)}")
    parser.add_argument("--rows", type=_words, default=[], metavar="ROWS", help="of one,eight,flight,batch,work,loaded")
    parser.add_argument("--quick", action="store_true", help="a try: short, and with 20,000 queued")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the page and its charts")
    parser.add_argument("--note", action="append", default=[], metavar="TEXT", help="about this run, for the page")
    parser.add_argument("--dir", default="/var/tmp", help="a folder on a disk (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
