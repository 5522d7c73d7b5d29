"""`opusctl doctor`: the daemon and this machine, a line a check: ok, warn, or fail with what to do."""

from __future__ import annotations

from opusctl.checkup import FAIL, OKAY, WARN, Check, local_checks
from opusctl.failure import FAILED, NO_DAEMON, OK, START_THE_DAEMON, Failure, NoDaemon
from opusctl.text import size, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.session import Session

STYLES = {OKAY: "green", WARN: "yellow", FAIL: "red"}
LITTLE_DISK, TOO_LITTLE_DISK = 1 << 30, 100 << 20  # bytes
LARGE_WAL = 256 << 20
SLOW = 250  # milliseconds
PATIENCE = 5.0  # seconds
LESSER = ("inotify", "hole", "chmod", "notification ")
"""Words of `degraded` that make opusd slower, quieter, its caps coarser or its walls thinner, and break nothing."""


def arguments(parser: Parser) -> None:
    parser.epilog = "Works without a daemon, then exits 3. Exits 1 when a check fails."


def run(session: Session, _args: Namespace) -> int:
    checks = local_checks(session.path)
    no_daemon = False
    try:
        info = session.call("system.info", patience=PATIENCE)
    except Failure as failure:
        no_daemon = isinstance(failure, NoDaemon)
        checks.append(Check("daemon", FAIL, failure.message, failure.hint or START_THE_DAEMON))
    else:
        checks += daemon_checks(info)
    failed = any(check.verdict == FAIL for check in checks)
    _print(session, checks, healthy=not failed)
    return NO_DAEMON if no_daemon else FAILED if failed else OK


def _print(session: Session, checks: list[Check], *, healthy: bool) -> None:
    screen = session.screen
    if screen.as_json:
        screen.json({"healthy": healthy, "checks": [check.as_object() for check in checks]})
        return
    names = max(len(check.name) for check in checks)
    for check in checks:
        if screen.quiet and check.verdict == OKAY:
            continue
        screen.line((f"{check.verdict:<5}", STYLES[check.verdict]), f"{check.name:<{names}}  {check.message}")
        if check.advice and check.verdict != OKAY:
            screen.line(" " * (names + 7), (check.advice, "dim"))


def daemon_checks(info: dict[str, Any]) -> list[Check]:
    """What the daemon says of itself."""
    from opusd import __version__

    version = str(info.get("version"))
    ready = bool(info.get("ready"))
    checks = [
        Check("daemon", OKAY if ready else FAIL, f"pid {info.get('pid')}, up {span(info.get('uptime') or 0)}"
              + ("" if ready else ", not ready"), "look at its log: journalctl --user -u opusd"),
        Check("version", OKAY if version == __version__ else WARN, f"opusd {version}, opusctl {__version__}",
              "restart the daemon, so that both are of one version: agents go on meanwhile"),
    ]  # fmt: skip
    for word in info.get("degraded") or ():
        lesser = any(part in str(word) for part in LESSER)
        checks.append(
            Check("degraded", WARN if lesser else FAIL, str(word), "look at its log: journalctl --user -u opusd")
        )
    sqlite = info.get("sqlite_version")
    if sqlite:
        checks.append(Check("sqlite", OKAY, sqlite_words(str(sqlite))))
    free = info.get("free_disk")
    if isinstance(free, int):
        verdict = FAIL if free < TOO_LITTLE_DISK else WARN if free < LITTLE_DISK else OKAY
        checks.append(Check("disk", verdict, f"{size(free)} free for the registry", "opusctl prune, or make room"))
    wal = info.get("wal_bytes") or 0
    files = f"{size(info.get('db_bytes') or 0)}, write-ahead log {size(wal)}"
    checks.append(
        Check(
            "registry", WARN if wal > LARGE_WAL else OKAY, files, "a reader holds an old snapshot: who reads the file?"
        )
    )
    for name, label in (("commit_ms", "commits"), ("loop_lag_ms", "event loop")):
        taken = info.get(name)
        if isinstance(taken, (int, float)):
            verdict = WARN if taken > SLOW else OKAY
            checks.append(Check(label, verdict, f"{taken:.1f} ms", "the disk or the machine is overloaded"))
    return checks


def sqlite_words(version: str) -> str:
    """The version, and whether it has the WAL-reset bug."""
    try:
        numbers = tuple(int(part) for part in version.split(".")[:3])
    except ValueError:
        return version
    if (3, 7, 0) <= numbers <= (3, 51, 2):
        return f"{version}; has the WAL-reset bug of 3.7.0 to 3.51.2, which opusd avoids: one connection writes"
    return version
