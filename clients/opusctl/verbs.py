"""The verbs, in the order of the help, each with its one line. A verb's code is the module of its name in `commands`.

A verb that is not here does not exist; one that comes later gets its line here and its module there.
"""

from __future__ import annotations

GROUPS: dict[str, dict[str, str]] = {
    "give work": {
        "submit": "give the daemon a job: a prompt, a command, or a file of jobs",
        "schedule": "submit a job by the calendar; list, pause, run and remove schedules",
        "edit": "change a job that is not finished",
        "retry": "run failed, cancelled or expired jobs again",
        "answer": "answer what an agent asks, or list what is asked",
        "ask": "ask a person, from inside a job",
        "progress": "say how far the job is that this runs in",
    },
    "look": {
        "list": "list jobs, unfinished ones first",
        "show": "show all about a job",
        "why": "say why a job is not running",
        "logs": "print a job's output; -f follows it",
        "wait": "wait until jobs are finished",
        "history": "show what happened to a job, and its attempts",
        "dead": "list jobs that failed for good; retry or remove many",
        "events": "print what happens; -f follows it",
        "status": "show the queue, the pool and what runs now",
        "capacity": "say whether a job would start now",
        "agents": "list the agents and their slots",
        "workers": "list the workers that claim jobs, or start one",
    },
    "steer": {
        "cancel": "end jobs",
        "hold": "put jobs aside",
        "release": "let held jobs go on",
        "pause": "start nothing new",
        "resume": "start jobs again; end an agent's cool-down",
        "drain": "pause, and wait until nothing runs",
        "resize": "change how many jobs run at once",
    },
    "look after the daemon": {
        "prune": "remove what is kept of finished jobs",
        "worktrees": "list the git worktrees of jobs, or remove those without work in them",
        "backup": "copy the registry to a file, consistent while jobs run",
        "notify": "list who is told what happens, or test one of them",
        "config": "print what the daemon runs with, and the longest wait that follows",
        "doctor": "check the daemon and this machine",
    },
}
VERBS = {verb: line for group in GROUPS.values() for verb, line in group.items()}
ALIASES = {"ls": "list", "ps": "list", "add": "submit", "log": "logs", "kill": "cancel"}
"""Words of neighbouring tools that people type; suggested, not accepted: a second name for a thing is a trap."""


def overview() -> str:
    """The text of `opusctl --help`."""
    lines = [
        "usage: opusctl VERB [ARGUMENTS]",
        "",
        "The command line of opusd, which runs coding agents in order and within limits.",
    ]
    for title, verbs in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {verb:<10} {line}" for verb, line in verbs.items()]
    lines += [
        "",
        "Every verb takes --json, -q (ids alone), --socket PATH and --help.",
        "Exit codes: 0 ok, 1 failed, 2 usage, 3 no daemon, 4 not found, 5 wrong state, 6 not allowed,",
        "            75 try later, 124 timed out, 130 interrupted.",
    ]
    return "\n".join(lines)


def unknown_verb(word: str) -> str:
    """What to say of a word that is no verb."""
    from opusctl.parsing import did_you_mean

    hint = f"; did you mean {ALIASES[word]}?" if word in ALIASES else did_you_mean(word, VERBS)
    return f"no such verb: {word}{hint}"
