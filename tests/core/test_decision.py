"""A decision is made ten thousand times a second: what it leaves behind counts."""

import gc
import weakref

from opusd.core.admission import Facts, submit
from opusd.core.decision import Decision
from tests.core.world import PERSON, World, submission


def test_a_decision_that_is_over_leaves_no_cycle_for_the_collector() -> None:
    world = World()
    gc.disable()
    try:
        decision = Decision(world.state, world.now)
        submit(decision, [submission()], Facts(), PERSON)
        job = decision.changes[0].after
        decision.renew(job, job)
        gone = weakref.ref(decision)
        del decision
        assert gone() is None
    finally:
        gc.enable()
