"""`opusctl show`: all that matters of a job, in sections. An empty section is left out."""

from __future__ import annotations

from opusctl.failure import FAILED, OK, Refused
from opusctl.jobs import FINAL, each, now, queue_state, status_part
from opusctl.parsing import ref
from opusctl.text import ago, cut, epoch, escaped, plural, scalar, span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser, Ref
    from opusctl.screen import Part, Screen
    from opusctl.session import Session

LABEL = 12  # columns of the names on the left
PROMPT_LINES = 12  # of a prompt, unless --full
SAME_LINE = 60


def arguments(parser: Parser) -> None:
    parser.add_argument("ids", type=ref, nargs="+", metavar="ID", help="ids or keys")
    parser.add_argument("--full", action="store_true", help="the whole prompt and result")


def run(session: Session, args: Namespace) -> int:
    screen = session.screen
    shown = 0

    def show(ref_: Ref) -> None:
        nonlocal shown
        job = session.call("job.get", {"id": ref_})
        if screen.as_json:
            screen.json(job)
        elif screen.quiet:
            screen.line(str(job["id"]))
        else:
            if shown:
                screen.line("")
            Page(screen, job, full=args.full).print(_attempts(session, job))
        if job.get("shortened"):
            screen.talk(
                f"job {job['id']} is longer than a reply may be: of its long texts and lists the first part is shown"
            )
        shown += 1

    _, code = each(session, args.ids, show)
    return code or OK


def _attempts(session: Session, job: Job) -> list[dict[str, Any]]:
    if not job.get("attempts"):
        return []
    try:
        history = session.call("job.history", {"id": job["id"]})
    except Refused as failure:
        if failure.exit_code == FAILED:  # an older daemon without the method: the rest of the page stands
            return []
        raise
    attempts: list[dict[str, Any]] = history["attempts"]
    return attempts


class Page:
    """One job on the screen."""

    def __init__(self, screen: Screen, job: Job, *, full: bool) -> None:
        self.screen = screen
        self.job = job
        self.full = full

    def print(self, attempts: list[dict[str, Any]]) -> None:
        self._head()
        self._what()
        self._where()
        self._order()
        self._dependencies()
        self._attempts(attempts)
        self._end()

    def _section(self, title: str, rows: list[tuple[str, Any]]) -> None:
        rows = [(name, value) for name, value in rows if value not in (None, "", [], {}, False)]
        if rows:
            self.screen.line((title, "bold"))
        for name, value in rows:
            self._row(name, value)

    def _row(self, name: str, value: Any) -> None:
        """A name and its value; a text of several lines stands indented below the name."""
        if isinstance(value, str) and "\n" in value.rstrip("\n"):
            self.screen.line("  ", (name, "dim"))
            for line in value.rstrip("\n").split("\n"):
                self.screen.line("    " + line.rstrip().expandtabs(4) if line.strip() else "")
            return
        self.screen.line("  ", (f"{name:<{LABEL}}", "dim"), " ", value if isinstance(value, str) else scalar(value))

    def _head(self) -> None:
        job = self.job
        title = str(job.get("title") or "")
        if self.screen.terminal:
            title = cut(escaped(title), max(20, self.screen.columns - 30), self.screen.ellipsis)
        self.screen.line((f"job {job['id']}", "bold"), "  ", status_part(self.screen, job), "  ", (title, "bold"))

    def _what(self) -> None:
        job = self.job
        self._section(
            "what",
            [
                ("command", _argv(job.get("command"))),
                ("prompt", self._text(job.get("prompt"))),
                ("agent", _agent(job)),
                ("type", job.get("type") if job.get("type") != "task" else None),
                ("group", job.get("group")),
                ("labels", ", ".join(job.get("labels") or [])),
                ("key", job.get("key")),
                ("folder", job.get("cwd")),
                ("workdir", job.get("workdir") if job.get("workdir") != job.get("cwd") else None),
                ("worktree", (job.get("branch") or "yes") if job.get("worktree") else None),
                ("verify", _argv(job.get("verify"))),
                ("env", ", ".join(_env(job.get("env") or {}))),
                ("needs", ", ".join(f"{name}={count}" for name, count in (job.get("needs") or {}).items())),
                ("timeout", span(job["timeout"]) if job.get("timeout") else None),
                ("retry", _policy(job)),
                ("payload", job.get("payload")),
                ("metadata", job.get("metadata")),
                ("submitted by", _submitter(job)),
            ],
        )

    def _where(self) -> None:
        job = self.job
        progress = job.get("progress") or {}
        question = job.get("question") or {}
        self._section(
            "where it is",
            [
                ("reason", job.get("reason")),
                ("worker", job.get("worker")),
                ("progress", _progress(progress)),
                ("question", question.get("text")),
                ("options", ", ".join(str(option) for option in question.get("options") or [])),
                ("created", self._time("created_at")),
                ("ready since", self._time("queued_at") if job["status"] not in FINAL else None),
                ("not before", self._time("run_at") if job["status"] not in FINAL else None),
                ("due", self._time("due_at")),
                ("started", self._time("started_at")),
                ("finished", self._time("completed_at")),
                ("took", _took(job)),
                ("times out", self._time("timeout_at")),
                ("expires", self._time("expires_at") if job["status"] not in FINAL else None),
            ],
        )

    def _order(self) -> None:
        job = self.job
        if job["status"] in FINAL:
            return
        inherits = job.get("inherits") or {}
        score = job.get("score")
        tier = str(job.get("tier") or "")
        if job.get("boost"):
            tier += f" {job['boost']:+d}"
        self._section(
            "order",
            [
                ("tier", tier),
                (
                    "inherits",
                    f"{inherits['tier']} from job {inherits['job']}, which waits for it" if inherits else None,
                ),
                ("score", f"{score:g}" if isinstance(score, (int, float)) else None),
                ("position", queue_state(job)),
            ],
        )

    def _dependencies(self) -> None:
        job = self.job
        self._section(
            "dependencies",
            [
                ("waits for", "\n".join(_edge(edge) for edge in job.get("depends_on") or [])),
                ("wait for it", ", ".join(str(one) for one in job.get("dependents") or [])),
                ("parent", f"job {job['parent']}" if job.get("parent") else None),
                ("root", f"job {job['root']}" if job.get("root") not in (None, job["id"], job.get("parent")) else None),
                ("carries on", f"job {job['escalated_from']}" if job.get("escalated_from") else None),
                ("escalated to", f"job {job['escalated_to']}" if job.get("escalated_to") else None),
            ],
        )

    def _attempts(self, attempts: list[dict[str, Any]]) -> None:
        if not attempts:
            return
        retries = self.job.get("retries")
        self.screen.line(("attempts", "bold"), f"  (retries used: {retries})" if retries else "")
        for row in attempts:
            self.screen.line(*attempt_line(row, now()))

    def _end(self) -> None:
        job = self.job
        error, result, usage = job.get("error") or {}, job.get("result") or {}, job.get("usage") or {}
        self._section(
            "error",
            [
                ("class", error.get("class")),
                ("message", self._text(error.get("message"))),
                ("exit code", _shown_code(error.get("exit_code"))),
                ("signal", _shown_code(error.get("signal"))),
                ("verify said", self._text(job.get("verify_output"))),
            ],
        )
        self._section(
            "result",
            [
                ("summary", self._text(result.get("summary"))),
                ("data", result.get("data")),
                ("usage", _usage(usage)),
                ("session", job.get("session_id")),
            ],
        )

    def _text(self, text: Any) -> Any:
        """A long text cut to its first lines, with how much is left."""
        if not isinstance(text, str) or self.full:
            return text
        lines = text.rstrip("\n").split("\n")
        if len(lines) <= PROMPT_LINES:
            return text
        kept = "\n".join(lines[:PROMPT_LINES])
        return f"{kept}\n[{plural(len(lines) - PROMPT_LINES, 'more line')}: --full]"

    def _time(self, name: str) -> str | None:
        time = self.job.get(name)
        if not time:
            return None
        return f"{ago(time, now())}  ({time})" if self.screen.terminal else str(time)


def attempt_line(row: dict[str, Any], at: float) -> list[Part]:
    """`  2  claude  failed: timeout, exit 143 after 2m 5s`."""
    ended = row.get("ended_at")
    took = span(max(0, (epoch(ended) if ended else at) - epoch(row["started_at"]))) if row.get("started_at") else "-"
    outcome, style = "running", "green"
    if ended:
        outcome, style = (str(row["class"]), "red") if row.get("class") else ("ok", "green")
    details = [str(row["message"])] if row.get("message") else []
    code = row.get("exit_code")
    details += [f"exit {code}"] if code and str(code) not in str(row.get("message")) else []
    details += [f"signal {row['signal']}"] if row.get("signal") else []
    who = row.get("worker") or row.get("agent") or "-"
    detail = f"  {', '.join(details)}" if details else ""
    return [f"  {row['attempt']:>2}  {who}  ", (outcome, style), f"  {took}{detail}"]


def _argv(argv: list[str] | None) -> str | None:
    if not argv:
        return None
    import shlex

    return escaped(shlex.join(argv))


def _agent(job: Job) -> str:
    agent = str(job.get("agent") or "-")
    return f"{agent} (by route {job['route']})" if job.get("route") else agent


def _policy(job: Job) -> str | None:
    """`exponential from 1s to 5m, at most 3`."""
    policy = job.get("retry")
    if not isinstance(policy, dict):
        return None
    most = job.get("max_retries", policy.get("max_retries"))
    if not most or policy.get("strategy") == "none":
        return None
    words = str(policy.get("strategy"))
    if policy.get("base") and words != "immediate":
        words += f" from {span(policy['base'])} to {span(policy.get('cap') or policy['base'])}"
    return f"{words}, at most {most}"


def _env(env: dict[str, Any]) -> list[str]:
    shown = []
    for name, value in env.items():
        if isinstance(value, dict):
            kind, where = next(iter(value.items()), ("", ""))
            shown.append(f"{name} {str(kind).replace('_', ' ')} {where}")
        else:
            shown.append(f"{name}={value}")
    return shown


def _submitter(job: Job) -> str | None:
    by, source = job.get("submitted_by"), job.get("source")
    return f"{by} ({source})" if by and source else by or source


def _progress(progress: dict[str, Any]) -> str:
    fraction = progress.get("fraction")
    part = f"{fraction * 100:.0f}%" if isinstance(fraction, (int, float)) else ""
    return " ".join(word for word in (part, progress.get("message") or "") if word)


def _took(job: Job) -> str | None:
    if job.get("started_at") and job.get("completed_at"):
        return span(max(0, epoch(job["completed_at"]) - epoch(job["started_at"])))
    return None


def _edge(edge: Any) -> str:
    if not isinstance(edge, dict):
        return f"job {edge}"
    words = [f"job {edge.get('job')}", f"on {edge.get('on', 'success')}"]
    words += [f"if unmet {edge['if_unmet']}"] if edge.get("if_unmet") else []
    words += [f"({edge['state']})"] if edge.get("state") else []
    return " ".join(words)


def _shown_code(code: Any) -> str | None:
    return None if code is None else str(code)


def _usage(usage: dict[str, Any]) -> str:
    words = [
        f"{usage[f'{kind}_tokens']:,} {kind}" for kind in ("input", "output", "cached") if usage.get(f"{kind}_tokens")
    ]
    tokens = f"tokens: {', '.join(words)}" if words else ""
    cost = f"${usage['cost_usd']:.2f}" if usage.get("cost_usd") else ""
    return "  ".join(part for part in (tokens, cost) if part)
