"""The points of a run, found by counting a run in which nothing is struck; and what happens at one of them."""

import asyncio
import random
import re
import shutil
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from opus_client import Client
from tests.crash import promises
from tests.crash.stage import Point, Stage
from tests.crash.workload import CONFIG, SCHEDULE, Account, perform

_LONGEST = 60.0
NEVER = 60_000  # about the largest number that strace counts to
_LINE = re.compile(r"^(?:(\d+) +)?(\w+)\(")
COUNTED = {
    "registry": "pwrite64,fdatasync",
    "recovery": "pwrite64,fdatasync",
    "creation": "pwrite64,fdatasync,fsync,rename,clone,clone3",
    "threads": "clone,clone3",
    "replies": "write,sendto,sendmsg",
    "launcher": "clone,sendmsg,recvfrom",
}
SHIM_CALLS = ("link", "fsync", "rename")
SHIM_JOBS = 6  # the first few run one attempt each
FAULTS = {
    ("registry", "pwrite64"): ("EIO", "ENOSPC"),
    ("registry", "fdatasync"): ("EIO",),
    ("creation", "pwrite64"): ("EIO", "ENOSPC"),
    ("creation", "fdatasync"): ("EIO",),
    ("creation", "fsync"): ("EIO",),
    ("creation", "rename"): ("EIO",),
    ("creation", "clone"): ("EAGAIN",),
    ("creation", "clone3"): ("EAGAIN",),
    ("launcher", "clone"): ("EAGAIN",),
    ("threads", "clone"): ("EAGAIN",),
    ("threads", "clone3"): ("EAGAIN",),
}
_WITH_REASON = (71, 74)
"""No room for a thread; a commit of which nobody knows whether it is kept."""


@dataclass
class Outcome:
    point: Point
    struck: bool = False
    died: int | None = None  # the exit status, if the daemon ended by itself
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Strikes:
    """A run's folder, with the registry that most points begin with."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="opusd-crash-")
        self.folder = Path(self._folder.name)
        self.template = self.folder / "template"
        self._lock = threading.Lock()
        self._numbers = 0

    def __enter__(self):
        self._prepare()
        return self

    def __exit__(self, *_):
        self._folder.cleanup()

    def _stage(self, family):
        with self._lock:
            self._numbers += 1
            folder = self.folder / str(self._numbers)
        folder.mkdir()
        return Stage(folder, None if family == "creation" else self.template, CONFIG)

    def _prepare(self):
        """A registry with a schedule whose firing was due while no daemon ran, and that fires once a year."""
        folder = self.folder / "first"
        folder.mkdir()
        stage = Stage(folder, None, CONFIG)
        stage.start()
        with Client(stage.socket, timeout=10) as client:
            job = {"command": ["true"], "cwd": "/"}
            client.call("schedule.add", name=SCHEDULE, cron="0 0 1 1 *", misfire="once", job=job)
        stage.stop()
        with closing(sqlite3.connect(stage.state / "opusd.db")) as db:
            overdue(db)
        shutil.copytree(stage.state, self.template)
        stage.clean_up()

    # --- which points there are -------------------------------------------------------------------

    def points(self, *, faults):
        """Every point of the workload: where a process is killed, or where a system call of it fails."""
        found = []
        for family in COUNTED:
            for call, times in self.count(family).items():
                actions = FAULTS.get((family, call), ()) if faults else ("kill",)
                lasting = (False, True) if faults or (family, call) == ("launcher", "clone") else (False,)
                found += [
                    Point(family, call, action, when, last)
                    for action in actions
                    for last in lasting
                    for when in range(1, times + 1)
                ]
        for call in SHIM_CALLS:
            action = ("EIO" if call != "link" else "ENOSPC") if faults else "kill"
            found += [Point("shims", call, action, job + 1) for job in range(1, SHIM_JOBS)]
        return found

    def count(self, family):
        """How often each call is made by the process that makes it most."""
        stage, account = self._stage(family), Account()
        calls = Counter()
        never = Point(family, COUNTED[family], "EIO", NEVER)
        if family == "recovery":
            _interrupt(stage, never, account)
        assert stage.start_struck(never), stage.said()
        if family != "creation":
            _act(stage, never, account)
        stage.strike_ends()
        for line in stage.trace.read_text(errors="replace").splitlines():
            if (made := _LINE.match(line)) is not None:
                calls[made[2], made[1]] += 1
        stage.remove()
        most = Counter()
        for (call, _), times in calls.items():
            most[call] = max(most[call], times)
        return dict(most)

    # --- one of them ------------------------------------------------------------------------------

    def strike(self, point):
        began = time.monotonic()
        outcome = Outcome(point)
        stage = self._stage(point.family)
        account = Account()
        try:
            self._go_through(stage, point, account, outcome)
        except Exception as error:  # noqa: BLE001 - what breaks the test breaks the promise too
            outcome.broken.append(_short(error))
        try:
            stage.clean_up()
        except Exception as error:  # noqa: BLE001
            outcome.broken.append(_short(error))
        if not outcome.broken:
            shutil.rmtree(stage.folder, ignore_errors=True)
        outcome.seconds = time.monotonic() - began
        return outcome

    def _go_through(self, stage, point, account, outcome):
        if point.family == "recovery":
            _interrupt(stage, point, account)
        alive = stage.start_struck(point)
        if alive:
            if point.family == "launcher" and point.kills and point.lasting:
                threading.Thread(target=_follow_into_death, args=(stage,), daemon=True).start()
            if not _act(stage, point, account):  # the daemon is ending
                stage.process.wait(promises.BOUND)
        outcome.died = stage.process.poll()
        if not point.kills and outcome.died is None and not point.lasting:
            outcome.broken += well_again(stage.socket)
        stage.strike_ends()
        outcome.struck = stage.struck(point, outcome.died)
        if not point.kills:
            outcome.broken += self._after_fault(stage, point, account, outcome, alive)
        stage.start()
        outcome.broken += promises.run_settle(stage.socket, account)
        stage.kill()
        place = stage.state / "opusd.db"
        outcome.broken += promises.audit(place, stage.work, account, relax=point.family == "shims")
        if point.family != "creation":
            outcome.broken += promises.fired_once(place)

    def _after_fault(self, stage, point, account, outcome, alive):
        broken = []
        if alive and outcome.died not in (None, *_WITH_REASON):
            broken.append(f"the daemon ended with {outcome.died}")
        if not alive and outcome.died == 0:
            broken.append("it could not start, and ended with 0")
        if alive and outcome.died is None and point.lasting and point.family == "registry" and outcome.struck:
            copy = stage.folder / "copy"
            copy.mkdir()
            for path in stage.state.glob("opusd.db*"):
                shutil.copy(path, copy)
            broken += promises.only_what_was_told(copy / "opusd.db", account)
        return broken


def overdue(db):
    """As if its schedule had been added a year and a day ago."""
    earlier = 367 * 86_400 * 1_000_000
    with db:
        changed = db.execute(
            "UPDATE settings SET value = json_set(value, '$.through', json_extract(value, '$.through') - ?)"
            " WHERE name = ?", (earlier, f"schedule:{SCHEDULE}"),
        )  # fmt: skip
    assert changed.rowcount == 1


def _short(error):
    """An error may bring the whole log of a daemon: what it says first, and its tracebacks' last words."""
    first, *lines = str(error).splitlines() or [""]
    errors = [line for line in lines if line[:1].isupper() and "Error" in line.partition(":")[0]]
    return " | ".join([f"{type(error).__name__}: {first[:200]}", *dict.fromkeys(errors)])


def _act(stage, point, account):
    """The workload; of a daemon that recovers, what brings everything to its end. False: the daemon was gone before."""
    if point.family != "recovery":
        patient = point.kills or not point.lasting
        asyncio.run(asyncio.wait_for(perform(stage.socket, stage.work, account, patient=patient), _LONGEST))
        return account.finished
    with suppress(OSError):  # and whatever it breaks is broken still after the next start
        promises.run_settle(stage.socket, account)
        return True
    return False


def _interrupt(stage, point, account):
    """A daemon that was killed in the midst of the workload, elsewhere for each point."""
    stage.start_struck(Point("registry", "fdatasync", "kill", 10 + point.when * 7 % 60))
    asyncio.run(asyncio.wait_for(perform(stage.socket, stage.work, account), _LONGEST))
    stage.strike_ends()
    stage.trace = stage.folder / "second"


def _follow_into_death(stage):
    """The launcher is killed, and the daemon with it."""
    process, tracer = stage.process, stage.tracer
    tracer.wait()
    process.kill()


def well_again(socket):
    """A fault that has passed leaves a daemon that takes calls."""
    end = time.monotonic() + promises.BOUND
    with Client(socket, timeout=10) as client:
        while any("registry" in word for word in client.call("system.info")["degraded"]):
            if time.monotonic() > end:
                return ["the fault has passed, and the daemon is degraded still"]
            time.sleep(0.05)
    return []


def sample(points, count, seed):
    """So many of them, of each family and call alike many as far as there are; in an order of chance."""
    chance = random.Random(seed)
    kinds = {}
    for point in points:
        kinds.setdefault((point.family, point.call, point.action, point.lasting), []).append(point)
    for some in kinds.values():
        chance.shuffle(some)
    chosen = []
    while len(chosen) < count and any(kinds.values()):
        chosen += [some.pop() for some in kinds.values() if some]
    chosen = chosen[:count] if count < len(chosen) else chosen
    chance.shuffle(chosen)
    return chosen
