"""What every store promises. The one conformance suite in `opusd.testing.stores` runs against each.

A store keeps records and knows nothing of scheduling: it never decides, and never looks at a clock.
"""

from __future__ import annotations

from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from opusd.core.errors import OpusError
from opusd.core.job import Attempt, Change, Event, Job, Outcome, Spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class StoreError(OpusError):
    """The registry can't be opened, and why; the daemon exits 78 rather than start on an empty one."""


class CommitFailed(Exception):
    """The batch is certainly not in the registry and nothing of it will reappear: try again later."""


class CommitRefused(Exception):
    """A constraint or an expectation did not hold: the batch is wrong, not the disk. Nothing was changed."""


class OutcomeUnknown(Exception):
    """The batch may or may not be in the registry: the daemon must end without answering (exit 74)."""


DURATIONS: Final = 50
DURATIONS_AMONG: Final = 5_000
"""`durations` gives so many at most, of so many jobs that ended last."""


class Batch(msgspec.Struct):
    """One transaction. `changes` are applied in order; a job may occur more than once.

    Only its end is kept, and has to hold: what a job passes through within a batch nobody sees. Jobs that are
    pruned and not changed in the batch are pruned before its changes (their keys are free), the others after.
    """

    changes: list[Change] = []
    events: list[Event] = []  # in cursor order; those of `changes` are NOT repeated here
    settings: dict[str, Any] = {}  # name -> JSON value; None deletes
    pruned: list[tuple[int, bool]] = []  # (job, free_key): prompt, payload, result go; id, status, times stay


class Record(msgspec.Struct, frozen=True):
    """`dependents`: the ids of the jobs that have an edge to this one, finished ones too, ascending."""

    job: Job
    spec: Spec
    outcome: Outcome
    pruned: bool = False
    dependents: tuple[int, ...] = ()


class Detail(msgspec.Struct, frozen=True):
    """A Record without the job itself."""

    spec: Spec
    outcome: Outcome
    dependents: tuple[int, ...] = ()


class Snapshot(msgspec.Struct):
    """What a start needs: every unfinished job, the last ids given out, and the settings.

    `alike`: jobs that are queued and have nothing of their own but an id and a time, by lists that share their Terms;
    a store that does not tell them apart has them among the `others`.
    """

    others: list[Job]
    last_job: int
    last_event: int
    settings: dict[str, Any]
    finals: dict[str, int] = {}  # final status -> how many jobs
    attempts: dict[str, tuple[int, int]] = {}  # agent -> (attempts ended, of which succeeded)
    alike: list[list[Job]] = []

    @property
    def jobs(self) -> list[Job]:
        """All, in id order."""
        return sorted(chain(self.others, *self.alike), key=attrgetter("id"))


class Forgotten(msgspec.Struct, frozen=True):
    """What is gone for good: jobs by their final status, with their attempts, and events."""

    finals: dict[str, int] = {}
    events: int = 0
    attempts: dict[str, tuple[int, int]] = {}  # as in Snapshot

    def __len__(self) -> int:
        return sum(self.finals.values()) + self.events


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Filters of job.list; every given one must hold. Tuples mean any of. Times are microseconds."""

    ids: tuple[int, ...] | None = None
    status: tuple[str, ...] | None = None
    tier: tuple[int, ...] | None = None
    type: tuple[str, ...] | None = None
    agent: tuple[str, ...] | None = None
    source: tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    parent: int | None = None
    since: int | None = None  # at or after
    until: int | None = None  # before
    time: str = "created"  # created, started, completed
    text: str | None = None  # substring of title or prompt, without regard to case: `contains`
    dead: bool = False  # failed, not escalated, not pruned: there is something to run again
    order: str = "-id"  # -id, id, completed_at, -completed_at (those without come last)
    after: tuple[int, ...] | None = None  # the `sort_values` of the last row of the page before
    limit: int = 100


def sort_values(order: str, job: Job) -> tuple[int, ...]:
    """What `Query.after` takes to go on behind this job."""
    if order in ("id", "-id"):
        return (job.id,)
    return (-1 if job.completed_at is None else job.completed_at, job.id)


def contains(text: str | None, part: str) -> bool:
    """The rule of `Query.text`: Unicode's case folding, so that STRASSE is in "straße"."""
    return text is not None and part.casefold() in text.casefold()


class Store(Protocol):
    async def open(self) -> None:
        """Open or create; migrate after a backup. StoreError says what is wrong with a registry that can't be used."""

    async def close(self) -> None: ...

    async def load_active(self) -> Snapshot:
        """All jobs that are not final, each with its edges and its run.

        To be asked for before the first commit: StoreError as for `open`, where damage takes a while to find.
        """

    async def commit(self, batch: Batch) -> None:
        """All of the batch, durably, or nothing: CommitFailed, CommitRefused, OutcomeUnknown.

        Each changed job must have the version of its `before`; a new key must be free. Cursors begin at 1, and
        none comes twice.
        """

    async def records(self, ids: Sequence[int]) -> list[Record]:
        """Those that exist, in the order asked."""

    async def details(self, ids: Sequence[int]) -> dict[int, Detail]:
        """Of those that exist, for who knows the jobs: there is half as much to read."""

    async def by_key(self, keys: Sequence[str]) -> dict[str, tuple[int, bytes]]:
        """Key -> (id, digest) for the keys in use."""

    async def query(self, query: Query) -> list[Record]: ...

    async def attempts(self, job: int) -> list[Attempt]: ...

    async def unpruned(self, ids: Sequence[int]) -> set[int]:
        """Those that exist and are not pruned."""

    async def tree_size(self, root: int) -> int:
        """How many jobs descend from this one, over any number of steps."""

    async def events(
        self, since: int, limit: int, *, kinds: Sequence[str] = (), jobs: Sequence[int] = (), group: str | None = None
    ) -> list[Event]:
        """Events with a cursor above `since`, ascending."""

    async def history(self, job: int, limit: int) -> list[Event]:
        """The newest events of a job, so many at most, ascending."""

    async def oldest_event(self) -> int:
        """The lowest cursor that is kept; 0 when nothing was pruned."""

    async def durations(self, agent: str, type_: str | None) -> list[int]:
        """Run times (completed_at - started_at) in microseconds of recent completed jobs of this agent (and type).

        Up to DURATIONS of those among the DURATIONS_AMONG jobs that ended last, newest first.
        """

    async def prunable(self, before: int, statuses: Sequence[str], limit: int) -> list[int]:
        """Jobs that ended before this, not pruned yet, that no unfinished job waits for; oldest first."""

    async def forget(self, before: int, limit: int) -> Forgotten:
        """Remove what is left of pruned jobs that ended, and events, before this: at most `limit` of both together.

        Events go from the oldest on without a gap, and the newest always stays.
        """

    async def backup(self, path: Path) -> None:
        """A consistent copy at `path`, of mode 0600, while commits go on.

        Conflict when a file is there already, InvalidParams (`$.path`) when none can be made there.
        """

    async def facts(self) -> dict[str, Any]:
        """For system.info: store, db_bytes, wal_bytes, sqlite_version, ..."""
