"""Quotas: how many jobs of a submitter, a source and a group may be queued and may run, and how fast a tree grows.

A job is on the account of each quota that holds it: `submitter:user:1000`, `source:agent`, `group:nightly`. What the
jobs of a tree submit is on their root's account. A human's message is on no account but its group's. Without quotas
there are no accounts, and nothing is counted.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from opusd.core.errors import QuotaExceeded
from opusd.core.lifecycle import ALIVE, Status
from opusd.core.limits import UNLIMITED, Limits, Quota
from opusd.core.times import MINUTE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opusd.core.decision import Decision
    from opusd.core.job import Job
    from opusd.core.state import State

_SUBMITTER: Final = "submitter"
_SOURCE: Final = "source"
_GROUP: Final = "group"
_RETRY_AFTER: Final = 60


class Accounts:
    """How many jobs are queued and how many run on each account."""

    def __init__(self, limits: Limits) -> None:
        self.queued: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self.relimit(limits, ())

    def relimit(self, limits: Limits, jobs: Iterable[Job]) -> None:
        """Other quotas: everything is counted again."""
        self._limits = limits
        self._none = limits.submitter is None and not limits.sources and not limits.groups
        self.queued.clear()
        self.running.clear()
        if not self._none:
            for job in jobs:
                self.count(job, 1)

    def of(self, job: Job) -> tuple[str, ...]:
        """The accounts that a job is on."""
        if self._none:
            return ()
        terms = job.terms
        found = () if terms.interactive else self.whose(terms.submitted_by, job.root, terms.source)
        return (*found, f"{_GROUP}:{terms.group}") if terms.group in self._limits.groups else found

    def whose(self, submitted_by: str, root: int, source: str) -> tuple[str, ...]:
        """The accounts of one who submits; `root` is that of the job whose agent does."""
        found = []
        if self._limits.submitter is not None:
            by = f"job:{root}" if submitted_by.startswith("job:") else submitted_by
            found.append(f"{_SUBMITTER}:{by}")
        if source in self._limits.sources:
            found.append(f"{_SOURCE}:{source}")
        return tuple(found)

    def binding(self, job: Job) -> tuple[str, ...]:
        """Those of its accounts that bound how many jobs run."""
        if self._none:
            return ()
        return tuple(name for name in self.of(job) if self.quota(name).max_running < UNLIMITED)

    def quota(self, account: str) -> Quota:
        return quota(self._limits, account)

    def count(self, job: Job, by: int) -> None:
        """So many more jobs like this one."""
        if self._none:
            return
        counted = self.queued if job.status is Status.QUEUED else self.running if job.status in ALIVE else None
        if counted is not None:
            for account in self.of(job):
                counted[account] += by


def quota(limits: Limits, account: str) -> Quota:
    """What bounds this account; a quota without limits for one that nothing bounds."""
    kind, _, name = account.partition(":")
    found = limits.submitter if kind == _SUBMITTER else limits.sources.get(name) if kind == _SOURCE else None
    return found or (limits.groups.get(name) if kind == _GROUP else None) or Quota()


def words(account: str) -> str:
    """`submitter user:1000`, `source agent`, `group nightly`."""
    kind, _, name = account.partition(":")
    return f"{kind} {name}"


def key(account: str, limit: str) -> str:
    """The configuration's key that bounds an account: `quotas.source.agent.max_queued`."""
    kind, _, name = account.partition(":")
    table = {_SUBMITTER: "quotas.submitter", _SOURCE: f"quotas.source.{name}", _GROUP: f"groups.{name}"}[kind]
    return f"{table}.{limit}"


def exhausted(state: State, account: str) -> bool:
    """Whether no further job of this account may start."""
    return state.quota_busy(account) >= quota(state.limits, account).max_running


def full(state: State, accounts: Iterable[str]) -> str | None:
    """The first of these accounts that takes no further queued job."""
    queued = state.accounts.queued
    return next((name for name in accounts if queued[name] >= quota(state.limits, name).max_queued), None)


def require_room(state: State, job: Job) -> None:
    """QuotaExceeded when a job that would be queued passes the limit of one of its accounts."""
    accounts = state.accounts.of(job)
    account = full(state, accounts) if accounts else None
    if account is not None:
        limit, queued = quota(state.limits, account).max_queued, state.accounts.queued[account]
        name = key(account, "max_queued")
        message = f"{queued} jobs of {words(account)} are queued and {name} is {limit}: wait, or raise it"
        raise QuotaExceeded(message, quota=name, limit=limit, queued=queued, retry_after=_RETRY_AFTER)


def require_pace(decision: Decision, root: int, count: int) -> None:
    """QuotaExceeded when so many more submissions by the agents of a tree are too many for one minute.

    What was submitted is remembered for the last minute alone, and forgotten with the tree or a restart.
    """
    state, now = decision.state, decision.now
    limit = state.limits.max_submissions_per_minute
    if limit is None:
        return
    recent = state.submissions.setdefault(root, deque())
    while recent and not now - MINUTE < recent[0] <= now:
        recent.popleft()
    over = len(recent) + count - limit
    if over > 0:
        wait = (recent[over - 1] + MINUTE - now) / 1e6 if over <= len(recent) else None
        advice = "submit fewer at once" if wait is None else f"wait {wait:.0f} s"
        message = (
            f"the agents of job {root} submitted {len(recent)} jobs within a minute, {count} more would pass "
            f"max_submissions_per_minute, which is {limit}: {advice}"
        )
        raise QuotaExceeded(
            message, quota="max_submissions_per_minute", limit=limit, retry_after=wait, index=limit - len(recent)
        )
    recent.extend([now] * count)
    decision.undone_by(lambda: _take_back(recent, count))


def _take_back(recent: deque[int], count: int) -> None:
    for _ in range(min(count, len(recent))):
        recent.pop()
