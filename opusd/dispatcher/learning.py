"""What the registry says of jobs that are not in memory, read before a submission is decided on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from opusd.core.access import Caller
    from opusd.core.admission import Facts, Submission
    from opusd.dispatcher.desk import Desk, Ref

REREADS: Final = 20
"""How often to read again when a decision finds that a fact is missing."""


async def learn(
    desk: Desk,
    caller: Caller,
    submissions: Sequence[Submission],
    facts: Facts,
    known: set[Ref],
    also: Iterable[int] = (),
) -> None:
    """Ask the registry for what memory does not know, of the jobs `also` too, until there is nothing more to ask.

    After the last look there is no await before the decision, so memory is no older than the facts.
    """
    if not (caller.agent or also) and all(
        one.key is None and one.parent is None and not one.depends for one in submissions
    ):
        return  # nearly always: it names nobody
    state = desk.state
    own = {submission.key for submission in submissions}
    also = tuple(also)
    while True:
        keys = {key for key in own if key is not None and key not in known}
        ids = {number for number in also if number not in state.jobs and number not in known}
        for submission in submissions:
            refs = [ref for ref, _, _ in submission.depends]
            for ref in refs if submission.parent is None else [*refs, submission.parent]:
                if isinstance(ref, int) and ref not in state.jobs and ref not in known:
                    ids.add(ref)
                elif isinstance(ref, str) and ref not in own and ref not in state.keys and ref not in known:
                    keys.add(ref)
        found = [*(number for number, _ in facts.keys.values()), *facts.links.values()]
        ids |= {number for number in found if number not in state.jobs and number not in known}
        root = _root(desk, caller)
        if root is not None and root not in state.tree_sizes and root not in facts.tree_sizes:
            await desk.settled()
            facts.tree_sizes[root] = await desk.store.tree_size(root)
            continue
        if not keys and not ids:
            return
        await desk.settled()
        known |= keys | ids
        if keys:
            facts.keys.update(await desk.store.by_key(sorted(keys)))
        for record in await desk.store.records(sorted(ids)) if ids else ():
            job = record.job
            facts.finals[job.id] = (job.status, job.ancestors)
            if job.extra is not None and job.extra.escalated_to is not None:
                facts.links[job.id] = job.extra.escalated_to


def _root(desk: Desk, caller: Caller) -> int | None:
    job = desk.state.jobs.get(caller.job) if caller.agent and caller.job is not None else None
    return None if job is None else job.root
