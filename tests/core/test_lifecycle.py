"""The table of transitions is the contract's, word for word, and there is no other way between two states."""

from itertools import product

import pytest

from opusd.core.decision import Decision
from opusd.core.errors import Conflict
from opusd.core.job import Job, Run, Terms
from opusd.core.lifecycle import FINAL, TRANSITIONS, Status, Step, advance
from opusd.testing.shape import shape_of
from tests.core.oracle import CONTRACT
from tests.core.world import World


def test_the_table_leads_where_the_contract_says_and_nowhere_else() -> None:
    reachable: dict[str, set[str]] = {status.value: set() for status in Status}
    for (status, _), to in TRANSITIONS.items():
        reachable[status.value].add(to.value)
    assert reachable == CONTRACT


@pytest.mark.parametrize(("status", "step"), [pair for pair in product(Status, Step) if pair not in TRANSITIONS])
def test_a_step_that_the_table_has_not_is_a_conflict_and_changes_nothing(status: Status, step: Step) -> None:
    world = World()
    alive = status in (Status.RUNNING, Status.CANCELLING)
    run = Run(attempt=1, attempt_id="a", token_hash=b"", slot=1, over=False, started_at=0) if alive else None
    job = Job(id=1, status=status, terms=Terms(), created_at=0, queued_at=0, run=run)
    if not job.final:
        world.state.load([job])
    before = shape_of(world.state)
    decision = Decision(world.state, world.now)
    with pytest.raises(Conflict, match=f"job 1 is {status}") as refused:
        decision.step(job, step)
    assert refused.value.data == {"status": status}
    assert decision.changes == []
    assert shape_of(world.state) == before


def test_only_the_final_states_end_and_only_completed_ends_for_good() -> None:
    assert {status for status in Status if status.value in ("completed", "failed", "cancelled", "expired")} == FINAL
    assert not [pair for pair in TRANSITIONS if pair[0] is Status.COMPLETED]


def test_a_conflict_without_a_job_still_says_what_is_wrong() -> None:
    with pytest.raises(Conflict, match="the job is completed: it can't become started"):
        advance(Status.COMPLETED, Step.START)
