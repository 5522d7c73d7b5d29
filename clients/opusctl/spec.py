"""The options of a JobSpec, and how they become one: what `submit` and `edit` have in common with the wire.

An option that was not given leaves its field out, so that the daemon's defaults apply. The options of a command
line lie over what a file or `--like` says.
"""

from __future__ import annotations

import os
import shlex

from opusctl.failure import UsageError
from opusctl.parsing import absolute, duration, edges, json_object, moment, need, priority, ref, retry_policy, setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.jobs import Job
    from opusctl.parsing import Parser

    Spec = dict[str, Any]

COPIED = (
    "prompt", "command", "title", "type", "interactive", "priority", "boost", "agent", "group", "payload",
    "metadata", "labels", "cwd", "env", "timeout", "expires_in", "max_retries", "retry", "needs", "worktree", "verify",
)  # fmt: skip
"""What `--like` takes from a job. Not its key, its place in a graph, its time, nor who asked."""


def add_order_options(parser: Parser) -> None:
    parser.add_argument(
        "--priority", type=priority, metavar="TIER", help="low, normal, urgent (or high), critical, or 1 to 10"
    )
    parser.add_argument("--boost", type=int, metavar="N", help="-49 to 49 points inside the order")
    parser.add_argument("--agent", metavar="NAME", help="who does it; else routes and default_agent decide")
    parser.add_argument(
        "--depends-on",
        type=edges,
        action="extend",
        metavar="ID[:ON[:ELSE]]",
        help="wait for a job; ON is success, failure or any, ELSE (when that can't come) block, cancel or run",
    )
    parser.add_argument("--need", type=need, action="append", metavar="NAME[=N]", help="hold a resource while it runs")
    parser.add_argument(
        "--run-at", type=moment, metavar="TIME", help="not before (RFC 3339, '2025-11-24 09:00', 09:00)"
    )


def add_limit_options(parser: Parser) -> None:
    parser.add_argument(
        "--expires-in", type=duration, metavar="DURATION", help="give up when not started for this long"
    )
    parser.add_argument("--timeout", type=duration, metavar="DURATION", help="end an attempt after this long")
    parser.add_argument("--max-retries", type=int, metavar="N", help="how often to try again")


def add_name_options(parser: Parser) -> None:
    parser.add_argument("--title", metavar="TEXT", help="shown in lists (default: the first line)")
    parser.add_argument("--label", action="append", metavar="LABEL", help="a label to filter by; may be repeated")
    parser.add_argument("--metadata", type=json_object, metavar="JSON", help="an object for you; or @FILE")


def add_spec_options(parser: Parser) -> None:
    """All fields of a JobSpec but prompt and command."""
    add_name_options(parser)
    parser.add_argument("--type", metavar="WORD", help="feature, bug, review, research, ... (default: task)")
    parser.add_argument("--group", metavar="NAME", help="the project, mission or batch it belongs to")
    parser.add_argument("--key", metavar="KEY", help="a name of your own; submitting it again changes nothing")
    add_order_options(parser)
    parser.add_argument("--delay", type=duration, metavar="DURATION", help="not before this has passed (90s, 10m, 24h)")
    add_limit_options(parser)
    parser.add_argument(
        "--retry",
        type=retry_policy,
        metavar="POLICY",
        help="default, fast, slow, none, one of config, or a JSON object",
    )
    parser.add_argument("--cwd", type=absolute, metavar="DIR", help="where it runs (default: here)")
    parser.add_argument("--env", type=setting, action="append", metavar="NAME=VALUE", help="into its environment")
    parser.add_argument(
        "--env-from", action="append", metavar="[NAME=]VAR", help="... from the daemon's variable VAR when it starts"
    )
    parser.add_argument("--env-file", type=setting, action="append", metavar="NAME=PATH", help="... from a file")
    parser.add_argument(
        "--verify", type=shlex.split, metavar="'ARGV'", help="run afterwards; if it fails the attempt did"
    )
    parser.add_argument("--worktree", action="store_const", const=True, help="in a git worktree of its own")
    parser.add_argument(
        "--no-worktree", dest="worktree", action="store_const", const=False, help="in the folder itself"
    )
    parser.add_argument("--payload", type=json_object, metavar="JSON", help="an object for the agent; or @FILE")
    parser.add_argument("--held", action="store_true", help="enter as held")
    parser.add_argument("--interactive", action="store_true", help="you wait for it: it goes before all that is not")
    parser.add_argument("--source", choices=("user", "automated", "agent"), help="who asked")
    parser.add_argument("--parent", type=ref, metavar="ID", help="the job that this one belongs to")


def fields(args: Namespace) -> Spec:
    """The fields that the options give."""
    given: Spec = {}
    for name in (
        "title", "type", "group", "key", "priority", "boost", "agent", "depends_on", "run_at", "delay", "expires_in",
        "timeout", "max_retries", "retry", "cwd", "worktree", "payload", "metadata", "source", "parent", "verify",
    ):  # fmt: skip
        if getattr(args, name, None) is not None:
            given[name] = getattr(args, name)
    if getattr(args, "label", None):
        given["labels"] = args.label
    if getattr(args, "need", None):
        given["needs"] = dict(args.need)
    for flag in ("held", "interactive"):
        if getattr(args, flag, False):
            given[flag] = True
    env = _env(args)
    if env:
        given["env"] = env
    return given


def _env(args: Namespace) -> dict[str, Any]:
    env: dict[str, Any] = dict(getattr(args, "env", None) or ())
    for word in getattr(args, "env_from", None) or ():
        name, _, source = word.partition("=")
        env[name] = {"from_env": source or name}
    for name, path in getattr(args, "env_file", None) or ():
        env[name] = {"from_file": absolute(path)}
    return env


def like(job: Job, given: Spec) -> Spec:
    """The spec of a job like another one, with `given` over it; a usage error where the daemon showed it in part."""
    if job.get("shortened"):
        raise UsageError(f"job {job['id']} is too long to be shown whole, and so to be copied: submit it anew")
    copied = {name: job[name] for name in COPIED if job.get(name) not in (None, [], {}, False)}
    if "prompt" in given or "command" in given:
        copied.pop("prompt", None)
        copied.pop("command", None)
        copied.pop("title", None)
        if ("command" in given) != bool(job.get("command")):
            copied.pop("agent", None)  # an agent for prompts runs no command, and the other way round
    if "priority" in given and "boost" not in given:
        copied.pop("boost", None)
    if given.get("interactive"):
        copied.pop("priority", None)
        copied.pop("boost", None)
    if "retry" in given and "max_retries" not in given:
        copied.pop("max_retries", None)
    return {**copied, **given}


def complete(spec: Spec) -> Spec:
    """The spec with the folder that it is submitted from."""
    if "cwd" not in spec:
        try:
            spec["cwd"] = os.getcwd()
        except OSError:
            raise UsageError("the current folder is gone; name another with --cwd") from None
    return spec
