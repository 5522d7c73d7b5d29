"""`opusctl status`: the daemon, the pool, the queue and what runs, on one screen."""

from __future__ import annotations

from opusctl.failure import FAILED, OK, NoDaemon, TimedOut
from opusctl.jobs import ACTIVE, FINAL, WAITING, now
from opusctl.text import escaped, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

LABEL = 9
PATIENCE = 5.0  # seconds that --check gives the daemon to answer
TIERS = ("critical", "urgent", "normal", "low")


def arguments(parser: Parser) -> None:
    parser.add_argument(
        "--check",
        action="store_true",
        help="exit 0 only when the daemon is ready and not degraded; 3 when it does not answer within 5 s",
    )


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    asked: list[tuple[str, dict[str, Any]]] = [("queue.status", {}), ("system.info", {})]
    status, info = _checked(session, asked) if args.check else session.call_all(asked)
    degraded = info.get("degraded") or []
    well = bool(info.get("ready")) and not degraded
    if screen.as_json:
        screen.json({**status, "daemon": info})
    elif screen.quiet:
        for job in status["running"]:
            screen.line(str(job["id"]))
    else:
        _daemon(screen, status, info)
        _queue(screen, status["counts"])
        _running(screen, status["running"])
    return OK if well or not args.check else FAILED


def _checked(session: Session, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """The replies, soon: who checks its health takes a daemon that is silent for one that is not there."""
    try:
        return session.call_all(asked, PATIENCE)
    except TimedOut as silent:
        raise NoDaemon(silent.message, hint=silent.hint, **silent.data) from None


def _row(screen: Screen, name: str, *rest: str | tuple[str, str]) -> None:
    screen.line((f"{name:<{LABEL}}", "dim"), *rest)


def _daemon(screen: Screen, status: dict[str, Any], info: dict[str, Any]) -> None:
    degraded = info.get("degraded") or []
    word, style = ("ready", "green") if info.get("ready") else ("not ready", "red")
    if degraded:
        word, style = "degraded: " + "; ".join(escaped(str(one)) for one in degraded), "red"
    up = status.get("uptime", info.get("uptime"))
    _row(screen, "opusd", (word, style), f"  {info.get('version', '')}  up {span(up or 0)}  pid {info.get('pid', '-')}")
    pool = status.get("pool") or {}
    extra = pool.get("interactive_slots") or 0
    _row(
        screen,
        "pool",
        f"{pool.get('busy', 0)} of {pool.get('max_concurrent', 0)} slots busy",
        f", {extra} more for people who wait" if extra else "",
    )
    paused = paused_words(status)
    if paused:
        _row(screen, "paused", (paused, "yellow"))


def paused_words(status: dict[str, Any]) -> str:
    """What is paused: `everything`, `agent claude, group nightly`, or nothing."""
    words = ["everything"] if status.get("paused") else []
    words += [f"agent {name}" for name in status.get("paused_agents") or []]
    words += [f"group {name}" for name in status.get("paused_groups") or []]
    return ", ".join(words)


def _queue(screen: Screen, counts: dict[str, dict[str, int]]) -> None:
    states = counts.get("status") or {}
    _row(screen, "jobs", _listed(states, [*ACTIVE, *WAITING]) or "nothing to do")
    finished = _listed(states, FINAL)
    if finished:
        _row(screen, "finished", (finished, "dim"))
    tiers = _listed(counts.get("tier") or {}, TIERS)
    if tiers:
        _row(screen, "tiers", tiers)
    agents = counts.get("agent") or {}
    if len(agents) > 1:
        _row(screen, "agents", _listed(agents, sorted(agents, key=lambda name: -agents[name])))


def _listed(counts: dict[str, int], names: Any) -> str:
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names if counts.get(name))


def _running(screen: Screen, running: list[Job]) -> None:
    if not running:
        return
    from opusctl.text import epoch

    at = now()
    rows: list[list[Part]] = []
    for job in running:
        progress = job.get("progress") or {}
        fraction = progress.get("fraction")
        rows.append(
            [
                str(job["id"]),
                (str(job.get("tier") or "-"), ""),
                str(job.get("worker") or job.get("agent") or "-"),
                span(int(max(0, at - epoch(job["started_at"])))).replace(" ", "") if job.get("started_at") else "-",
                f"{fraction * 100:.0f}%" if isinstance(fraction, (int, float)) else "-",
                str(job.get("title") or ""),
            ]
        )
    screen.line("")
    screen.table(["ID", "TIER", "AGENT", "FOR", "DONE", "TITLE"], rows, right=("ID", "FOR", "DONE"))
