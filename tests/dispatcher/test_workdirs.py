"""A worktree's place is on disk before it is made, and what unfinished jobs work in stays."""

import asyncio
import threading

from opusd.agents.worktree import Tree, WorktreeError
from opusd.core import commands
from opusd.core.lifecycle import Status
from opusd.core.retry import FailureClass
from opusd.dispatcher.workdirs import Workdirs
from tests.dispatcher.bench import BOUND, EngineBench, cancelling


async def record(bench, number):
    return (await bench.store.records([number]))[0]


async def test_the_place_is_on_disk_before_the_worktree_is_made_and_the_attempt_launched(engines):
    await engines.begin()
    engines.store.hold()
    submitted = asyncio.create_task(engines.submit(worktree=True))
    for number in (1, 2):  # the submission, the start
        await engines.store.came(number)
        engines.store.let()
    await submitted
    await engines.store.came(3)
    assert engines.worktrees.planned == ["1"]
    assert (engines.worktrees.made, engines.pool.launches) == ([], [])
    engines.store.let()
    await engines.launched(1)
    assert [name for name, _, _ in engines.worktrees.made] == ["1"]
    outcome = (await record(engines, 1)).outcome
    assert (outcome.workdir, outcome.branch) == ("/worktrees/1", "opus/1")


async def test_a_daemon_that_died_after_the_place_was_written_makes_that_one(engines):
    await engines.begin()
    engines.worktrees.refusal = WorktreeError("killed", None)
    await engines.submit(worktree=True)
    await engines.said("launch.failed")
    await engines.until(lambda: engines.state.jobs[1].status is Status.QUEUED)
    again = EngineBench(engines.store)
    again.state.load([engines.state.jobs[1]])
    again.state.last_job, again.state.last_event = engines.state.last_job, engines.state.last_event
    await engines.stop()
    await again.begin()
    await again.launched(1)
    assert again.worktrees.planned == []
    assert [(name, place.branch) for name, _, place in again.worktrees.made] == [("1", "opus/1")]
    again.pool.end(1, attempt=2)
    await again.until(lambda: 1 not in again.state.jobs)
    assert (await record(again, 1)).outcome.branch == "opus/1"
    await again.stop()


async def test_where_there_can_be_no_worktree_the_attempt_fails_and_nothing_is_launched(engines):
    engines.worktrees.refusal = WorktreeError("no repository")
    await engines.begin()
    await engines.submit(worktree=True)
    await engines.until(lambda: 1 not in engines.state.jobs)
    assert engines.pool.launches == []
    error = (await record(engines, 1)).outcome.error
    assert (error["class"], error["message"]) == ("config", "no repository")


async def test_a_git_that_fails_is_a_failure_that_is_retried(engines):
    engines.worktrees.refusal = WorktreeError("git worktree add: no space", FailureClass.SPAWN)
    await engines.begin()
    await engines.submit(worktree=True)
    await engines.until(lambda: engines.state.jobs[1].status is Status.RETRYING)
    assert (await record(engines, 1)).outcome.error["class"] == "spawn"


async def test_a_job_cancelled_while_its_worktree_is_made_is_not_launched(engines):
    making, go = threading.Event(), threading.Event()

    def make(name, cwd, place):
        making.set()
        assert go.wait(BOUND)

    engines.worktrees.make = make
    await engines.begin()
    await engines.submit(worktree=True)
    assert await asyncio.to_thread(making.wait, BOUND)

    def cancel(decision):
        after = commands.cancel(decision, decision.state.jobs[1], reason=None, grace=0, cascade=False)
        engines.engine.stop_after(decision, after)

    await engines.writer.command(cancel, "user:1")
    go.set()
    await engines.until(lambda: 1 not in engines.state.jobs)
    assert engines.pool.launches == []
    assert (await record(engines, 1)).job.status is Status.CANCELLED


class Looked:
    """In the place of git: every worktree is clean, and removed when that is asked."""

    def __init__(self, bench, state="clean"):
        self.removed = []
        self.workdirs = Workdirs(bench.worktrees, bench.state, bench.store)
        bench.worktrees.look = lambda name: Tree(name=name, path=f"/worktrees/{name}", state=state, changes=2)
        bench.worktrees.remove = self.remove
        self.look = bench.worktrees.look

    def remove(self, name):
        self.removed.append(name)
        return self.look(name)


async def test_what_an_unfinished_job_works_in_stays_and_then_goes(engines):
    await engines.begin()
    looked = Looked(engines)
    await engines.submit(worktree=True)
    await engines.launched(1)
    assert (await looked.workdirs.remove("1"))[1] == "job 1 is running"
    assert looked.removed == []
    assert (await looked.workdirs.remove("1-2"))[1] == ""  # another of its worktrees than the one it works in
    engines.pool.end(1)
    await engines.until(lambda: 1 not in engines.state.jobs)
    assert (await looked.workdirs.remove("1", dry_run=True))[1] == ""
    assert looked.removed == ["1-2"]
    assert (await looked.workdirs.remove("1"))[1] == ""
    assert looked.removed == ["1-2", "1"]
    assert "not in the registry" in (await looked.workdirs.remove("99"))[1]


async def test_what_it_submitted_may_still_work_there(engines):
    await engines.begin(dispatch=False)
    looked = Looked(engines)
    await engines.submit(worktree=True, held=True)
    await engines.submit(parent=1, held=True)
    await engines.writer.command(cancelling(1), "user:1")
    assert (await looked.workdirs.remove("1"))[1] == "job 2, which job 1 submitted, is not finished"


async def test_a_dirty_one_is_kept_and_said_why(engines):
    await engines.begin()
    await engines.submit(worktree=True)
    await engines.launched(1)
    engines.pool.end(1)
    await engines.until(lambda: 1 not in engines.state.jobs)
    tree, kept = await Looked(engines, "dirty").workdirs.remove("1")
    assert (tree.state, kept) == ("dirty", "2 changed or new files")
