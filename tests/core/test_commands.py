"""What people do to jobs that exist, by status; refusals change nothing, and what already holds is left as it is."""

from collections.abc import Callable

import pytest

from opusd.core.errors import Conflict, DependencyError, InvalidParams, OpusError
from opusd.core.job import EdgeState, Ending, Job, Source, Tier
from opusd.core.lifecycle import Status
from opusd.core.limits import Agent
from opusd.core.retry import PRESETS, Policy, Strategy
from opusd.testing.shape import shape_of
from tests.core.world import HOUR, MINUTE, SECOND, World, depends, limits


def in_status(status: str, **fields: object) -> tuple[World, Job]:
    """A world with a job of agent claude that got to `status` by what people and attempts do."""
    world = World()
    fields = {"agent": "claude", **fields}
    if status == "held":
        fields["held"] = True
    if status == "scheduled":
        fields["run_at"] = world.now + HOUR
    if status == "blocked":
        fields["depends"] = (depends(world.submit(held=True).id),)
    job = world.submit(**fields)
    if status in ("running", "cancelling", "retrying", "completed", "failed"):
        world.tick()
    if status == "retrying":
        world.end(job, "agent_error")
    if status == "failed":
        world.end(job, "auth")
    if status == "completed":
        world.end(job)
    if status in ("cancelling", "cancelled"):
        world.cancel(job)
    if status == "expired":
        world.update(job, expires_in=SECOND)
        world.pause("*")
        world.tick(SECOND)
        world.resume("*")
    assert world[job].status == status
    return world, world[job]


UNSTARTED = ("held", "blocked", "scheduled", "queued")
FINAL = ("completed", "failed", "cancelled", "expired")
ALL = (*UNSTARTED, "running", "cancelling", "retrying", *FINAL)


def attempt(world: World, verb: Callable[[], Job]) -> Job | type[OpusError]:
    """What the verb gives, or its refusal, which changed nothing."""
    before = dict(world.known)
    try:
        return verb()
    except OpusError as error:
        assert world.known == before
        assert shape_of(world.state) == shape_of(world.rebuilt())
        return type(error)


# --- hold, release, cancel, retry: every status -----------------------------------------------------------


@pytest.mark.parametrize("status", ALL)
def test_hold_puts_aside_what_waits_and_refuses_the_rest(status: str) -> None:
    world, job = in_status(status)
    after = attempt(world, lambda: world.hold(job))
    if status == "held":
        assert after is job
    elif status in (*UNSTARTED, "retrying"):
        assert isinstance(after, Job)
        assert (after.status, after.queued_at, after.due_at) == ("held", None, None)
    else:
        assert after is Conflict


@pytest.mark.parametrize("status", ALL)
def test_hold_with_stop_ends_a_running_attempt_too(status: str) -> None:
    world, job = in_status(status)
    after = attempt(world, lambda: world.hold(job, stop=True, grace=3 * SECOND))
    if status == "running":
        assert isinstance(after, Job)
        assert after.status is Status.CANCELLING
        assert (after.run.ending, after.run.kill_at) == (Ending.HOLD, world.now + 3 * SECOND)
        assert after.run.ending_by == "user:1000"
        assert world.hold(job, stop=True, grace=HOUR) is after
        assert world.hold(job, stop=True, grace=SECOND).run.kill_at == world.now + SECOND
    elif status in (*UNSTARTED, "retrying"):
        assert isinstance(after, Job)
        assert after.status is Status.HELD
    else:
        assert after is Conflict


@pytest.mark.parametrize("status", ALL)
def test_release_sets_free_what_is_held_and_leaves_what_waits(status: str) -> None:
    world, job = in_status(status)
    world.now += MINUTE
    after = attempt(world, lambda: world.release(job))
    if status == "held":
        assert isinstance(after, Job)
        assert (after.status, after.queued_at) == ("queued", world.now)
    elif status in (*UNSTARTED, "retrying"):
        assert after is job
    else:
        assert after is Conflict


def test_release_puts_a_job_where_the_first_that_applies_says() -> None:
    world = World()
    upstream = world.submit(held=True)
    blocked = world.submit(held=True, depends=(depends(upstream.id),), run_at=world.now + HOUR)
    later = world.submit(held=True, run_at=world.now + HOUR)
    assert world.release(blocked).status is Status.BLOCKED
    assert world.release(later).status is Status.SCHEDULED


@pytest.mark.parametrize("status", ALL)
def test_cancel_ends_all_that_is_not_finished(status: str) -> None:
    world, job = in_status(status)
    after = attempt(world, lambda: world.cancel(job, reason="no more"))
    if status in ("cancelling", "cancelled"):
        assert after is job
    elif status == "running":
        assert isinstance(after, Job)
        assert (after.status, after.run.ending, after.run.ending_reason) == ("cancelling", "cancel", "no more")
    elif status in FINAL:
        assert after is Conflict
    else:
        assert isinstance(after, Job)
        assert (after.status, after.completed_at) == ("cancelled", world.now)
        assert job.id not in world.state.jobs


def test_a_second_cancel_may_shorten_the_grace_and_not_extend_it() -> None:
    world, job = in_status("cancelling")
    kill_at = job.run.kill_at
    assert world.cancel(job, grace=HOUR).run.kill_at == kill_at
    assert world.cancel(job, grace=0).run.kill_at == world.now


def test_a_stop_may_become_a_cancel_but_a_cancel_no_stop() -> None:
    world, job = in_status("running")
    world.hold(job, stop=True)
    assert world.cancel(job).run.ending is Ending.CANCEL
    with pytest.raises(Conflict):
        world.hold(job, stop=True)


def test_cancel_with_cascade_takes_dependents_and_spawned_jobs_in_any_number_of_steps() -> None:
    world = World()
    job = world.submit(agent="claude")
    dependent = world.submit(depends=(depends(job.id, "any"),))
    further = world.submit(depends=(depends(dependent.id),))
    child = world.submit(agent="claude", parent=job.id)
    grandchild_dependent = world.submit(depends=(depends(child.id),))
    bystander = world.submit(tier=Tier.LOW)
    world.tick()
    world.cancel(job, cascade=True, reason="enough")
    assert [world[one].status for one in (job, dependent, further, child, grandchild_dependent, bystander)] == [
        "cancelling", "cancelled", "cancelled", "cancelling", "cancelled", "queued",
    ]  # fmt: skip
    assert world[child].run.ending_reason == "enough"


def test_cancel_without_cascade_leaves_them() -> None:
    world = World()
    job = world.submit()
    dependent = world.submit(depends=(depends(job.id),))
    child = world.submit(parent=job.id)
    world.cancel(job)
    assert world[dependent].status is Status.BLOCKED
    assert world[child].status is Status.QUEUED


@pytest.mark.parametrize("status", ALL)
def test_retry_sends_again_what_failed_was_cancelled_expired_or_backs_off(status: str) -> None:
    world, job = in_status(status)
    world.now += MINUTE
    after = attempt(world, lambda: world.retry(job))
    if status in ("failed", "cancelled", "expired", "retrying"):
        assert isinstance(after, Job)
        assert after.status is Status.QUEUED
        assert (after.id, after.attempts, after.retries, after.completed_at) == (job.id, job.attempts, 0, None)
        assert after.due_at is None
        assert job.id in world.started()
    elif status in ("queued", "blocked", "scheduled"):
        assert after is job
    else:
        assert after is Conflict


def test_a_retried_job_has_its_key_its_place_in_its_tree_and_stands_in_line_from_now() -> None:
    world = World()
    root = world.submit(held=True)
    job = world.submit(key="k", group="g", parent=root.id)
    world.cancel(job)
    assert world.state.keys == {}
    world.now += HOUR
    assert world.retry(job).queued_at == world.now
    assert world.state.keys == {"k": job.id}
    assert job.id in world.state.descendants[root.id]
    assert job.id in world.state.groups["g"]


def test_a_retried_job_goes_where_the_first_that_applies_says() -> None:
    world, job = in_status("blocked", run_at=HOUR)
    world.cancel(job)
    again = world.retry(job)
    assert again.status is Status.BLOCKED
    assert again.queued_at is None


# --- update -----------------------------------------------------------------------------------------------

FIELDS: dict[str, object] = {
    "title": "other", "labels": ["x"], "metadata": {"a": 1}, "timeout": MINUTE, "tier": Tier.URGENT, "boost": 7,
    "needs": {"gpu": 1}, "prompt": "other", "agent": "codex", "expires_in": HOUR, "max_retries": 9, "run_at": 1,
    "depends": None,
}  # fmt: skip
ALWAYS = {"title", "labels", "metadata"}


def allowed(field: str, status: str) -> bool:
    """The row of job.update in the contract's table."""
    if field in ALWAYS:
        return True
    if field == "timeout":
        return status not in FINAL
    if field in ("run_at", "depends"):
        return status in UNSTARTED
    return status not in ("running", "cancelling", *FINAL)


@pytest.mark.parametrize("status", ALL)
@pytest.mark.parametrize("field", FIELDS)
def test_update_changes_what_the_status_allows_and_nothing_else(field: str, status: str) -> None:
    world, job = in_status(status)
    value = (depends(world.submit(held=True).id),) if field == "depends" else FIELDS[field]
    after = attempt(world, lambda: world.update(job, **{field: value}))
    if allowed(field, status):
        assert isinstance(after, Job)
        assert after.version == job.version + 1
    else:
        assert after is Conflict


def test_update_shows_in_the_job_or_in_its_spec() -> None:
    world, job = in_status("queued")
    world.update(job, title="new", prompt="other", labels=["l"], metadata={"m": 1})
    spec = world.specs[job.id]
    assert (spec.title, spec.prompt, spec.labels, spec.metadata) == ("new", "other", ["l"], {"m": 1})
    world.update(job, timeout=MINUTE, tier=Tier.LOW, boost=-3, needs={"gpu": 1}, expires_in=HOUR, max_retries=9)
    terms = world[job].terms
    assert (terms.timeout, terms.tier, terms.boost, terms.needs) == (MINUTE, Tier.LOW, -3, (("gpu", 1),))
    assert (terms.expires_in, terms.retry.max_retries) == (HOUR, 9)
    assert world.tick(0).start[0].id == job.id


@pytest.mark.parametrize("own", [None, PRESETS["slow"], PRESETS["none"]], ids=["the agent's", "slow", "none"])
@pytest.mark.parametrize("at_first", [None, 7])
def test_max_retries_of_none_is_that_of_the_policy_again_however_often_it_was_changed(
    own: Policy | None, at_first: int | None
) -> None:
    world = World()
    policy = own or world.state.limits.agents["claude"].retry
    job = world.submit(agent="claude", retry=own, max_retries=at_first)
    for number in (1, 0, 9):
        assert world.update(job, max_retries=number).terms.retry.max_retries == number
    assert world.update(job, max_retries=None).terms.retry == policy
    version = world[job].version
    assert world.update(job, max_retries=None).version == version


def test_another_agent_brings_its_policy_and_the_jobs_own_max_retries_stay() -> None:
    agents = {"claude": Agent("claude", retry=PRESETS["fast"]), "codex": Agent("codex", retry=PRESETS["slow"])}
    world = World(limits(agents=agents))
    job = world.submit(agent="claude", max_retries=9)
    moved = world.update(job, agent="codex").terms.retry
    assert (moved.strategy, moved.base, moved.max_retries) == (Strategy.FIBONACCI, 60 * SECOND, 9)
    assert world.update(job, max_retries=None).terms.retry == PRESETS["slow"]
    own = world.submit(agent="claude", retry=PRESETS["default"], max_retries=9)
    assert world.update(own, agent="codex", max_retries=None).terms.retry == PRESETS["default"]


@pytest.mark.parametrize("later", [False, True], ids=["submitted", "edited"])
def test_max_retries_that_a_job_asked_for_stay_where_they_are_what_its_policy_has_anyway(later: bool) -> None:
    agents = {"claude": Agent("claude", retry=PRESETS["fast"]), "codex": Agent("codex", retry=PRESETS["slow"])}
    world = World(limits(agents=agents))
    number = PRESETS["fast"].max_retries
    job = world.submit(agent="claude", max_retries=9 if later else number)
    if later:
        world.update(job, max_retries=number)
    assert world.update(job, agent="codex").terms.retry.max_retries == number
    assert world.update(job, max_retries=None).terms.retry == PRESETS["slow"]


def test_max_retries_that_a_job_has_by_its_policy_are_nothing_new() -> None:
    world = World()
    job = world.submit(agent="claude")
    assert world.update(job, max_retries=job.terms.retry.max_retries) == job


SAME: dict[str, object] = {
    "title": "do it", "labels": ["l"], "metadata": {"m": 1}, "timeout": MINUTE, "tier": Tier.URGENT, "boost": 3,
    "needs": {"gpu": 1}, "prompt": "do it", "agent": "claude", "expires_in": HOUR, "max_retries": 9, "run_at": None,
    "depends": (),
}  # fmt: skip


def alike(status: str) -> tuple[World, Job]:
    """A job of which `SAME` says what it is."""
    fields = {"tier": Tier.URGENT, "boost": 3, "labels": ["l"], "metadata": {"m": 1}, "timeout": MINUTE}
    return in_status(status, **fields, needs={"gpu": 1}, expires_in=HOUR, max_retries=9)


@pytest.mark.parametrize("status", ["held", "queued", "running", "retrying", "completed"])
def test_an_update_that_says_nothing_new_leaves_the_job_and_the_audit_trail_as_they_are(status: str) -> None:
    world, job = alike(status)
    events = world.state.last_event
    for field, value in SAME.items():
        if allowed(field, status):
            assert world.update(job, **{field: value}) == job
    everything = {field: value for field, value in SAME.items() if allowed(field, status)}
    assert world.update(job, version=job.version, **everything) is job
    assert world.update(job) is job
    assert world.state.last_event == events


def test_an_update_to_the_edges_and_the_time_that_a_job_has_changes_nothing() -> None:
    world = World(max_concurrent=0)
    done, open_ = world.submit(held=True), world.submit(held=True)
    job = world.submit(depends=(depends(done.id, "any"), depends(open_.id)), run_at=world.now + HOUR)
    world.cancel(done)
    job = world[job]
    assert [edge.state for edge in job.edges] == ["satisfied", "pending"]
    again = (depends(done.id, "any"), depends(open_.id))
    assert world.update(job, depends=again, run_at=job.run_at) is job


def test_an_update_that_says_nothing_new_of_a_job_that_has_moved_on_is_a_conflict_all_the_same() -> None:
    world, job = alike("queued")
    world.update(job, boost=4)
    with pytest.raises(Conflict, match="has version 2, not 1"):
        world.update(job, version=1, title="do it")


def test_a_stale_version_is_a_conflict() -> None:
    world, job = in_status("queued")
    world.update(job, version=1, boost=3)
    with pytest.raises(Conflict, match="has version 2, not 1") as caught:
        world.update(job, version=1, boost=4)
    assert caught.value.data == {"version": 2}


def test_another_agent_tier_or_boost_moves_the_job_in_line() -> None:
    world = World(max_concurrent=0)
    first, second = world.submit(agent="claude"), world.submit(agent="claude")
    world.update(second, boost=1)
    assert world.state.position(world[second]) == (1, 0)
    world.update(first, tier=Tier.URGENT)
    assert world.state.position(world[first]) == (1, 0)
    world.update(second, agent="codex")
    assert world.state.position(world[second]) == (1, 1)
    assert world[second].queued_at == second.queued_at


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"agent": "nobody"}, "$.agent"), ({"agent": "exec"}, "$.agent"), ({"command": ["ls"]}, "$.command"),
     ({"needs": {"gpu": 2}}, "$.needs.gpu")],
)  # fmt: skip
def test_an_update_that_could_never_run_is_refused(fields: dict[str, object], path: str) -> None:
    world, job = in_status("queued")
    with pytest.raises(InvalidParams) as caught:
        world.update(job, **fields)
    assert caught.value.data["path"] == path


def test_a_job_is_judged_as_it_is_to_be_when_its_agent_changes_with_what_it_runs() -> None:
    world, job = in_status("queued")
    after = world.update(job, agent="exec", command=["ls", "-l"])
    spec = world.specs[job.id]
    assert (after.terms.agent, spec.command, spec.prompt) == ("exec", ["ls", "-l"], None)
    assert after.terms.retry == world.limits.agents["exec"].retry
    after = world.update(job, agent="claude", prompt="list the files")
    spec = world.specs[job.id]
    assert (after.terms.agent, spec.command, spec.prompt) == ("claude", None, "list the files")
    assert after.terms.retry == world.limits.agents["claude"].retry
    assert shape_of(world.state) == shape_of(world.rebuilt())


def test_a_title_of_null_is_that_of_a_submission_without_one() -> None:
    world, job = in_status("queued")

    def titled(**fields: object) -> str:
        world.update(job, **fields)
        return world.specs[job.id].title

    assert titled(title="mine") == "mine"
    assert titled(title=None) == "do it"
    assert titled(title=None, prompt="\n  look at this\nand that") == "look at this"
    assert titled(title=None, agent="exec", command=["ls", "-l"]) == "ls -l"
    assert titled(title=None, command=["x" * 300]) == "x" * 200
    version = world[job].version
    assert world.update(job, title=None).version == version


@pytest.mark.parametrize(
    ("command", "fields", "path"),
    [
        (None, {"agent": "exec"}, "$.agent"),
        (None, {"agent": "exec", "prompt": "hi"}, "$.prompt"),
        (None, {"agent": "exec", "command": ["ls"], "prompt": "hi"}, "$.prompt"),
        (None, {"command": ["ls"]}, "$.command"),
        (["ls"], {"agent": "claude"}, "$.agent"),
        (["ls"], {"agent": "claude", "command": ["pwd"]}, "$.command"),
        (["ls"], {"agent": "claude", "command": ["pwd"], "prompt": "hi"}, "$.command"),
        (["ls"], {"prompt": "hi"}, "$.prompt"),
    ],
)
def test_an_agent_without_what_it_runs_or_with_what_it_does_not_run_is_refused(
    command: list[str] | None, fields: dict[str, object], path: str
) -> None:
    world = World(max_concurrent=0)
    job = world.submit(command=command)
    with pytest.raises(InvalidParams) as caught:
        world.update(job, **fields)
    assert caught.value.data["path"] == path
    assert world[job] is job


def test_a_job_for_workers_without_a_prompt_may_go_to_another_agent_of_prompts() -> None:
    world = World(max_concurrent=0)
    job = world.submit(prompt=None, agent="pull")
    assert world.update(job, agent="claude").terms.agent == "claude"


def test_a_command_has_no_prompt_and_machines_get_no_critical() -> None:
    world = World()
    job = world.submit(command=["ls"])
    with pytest.raises(InvalidParams):
        world.update(job, prompt="hello")
    world.update(job, command=["pwd"])
    assert world.specs[job.id].command == ["pwd"]
    automated = world.submit(source=Source.AUTOMATED)
    with pytest.raises(InvalidParams):
        world.update(automated, tier=Tier.CRITICAL)


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"tier": Tier.LOW}, "$.priority"), ({"tier": Tier.NORMAL, "boost": 0}, "$.priority"), ({"boost": 9}, "$.boost"),
     ({"tier": Tier.CRITICAL, "boost": 9}, "$.boost")],
)  # fmt: skip
def test_another_tier_or_boost_is_refused_to_an_interactive_job(fields: dict[str, object], path: str) -> None:
    world = World(max_concurrent=0)
    human = world.submit(interactive=True)
    with pytest.raises(InvalidParams, match="is interactive: it is critical") as caught:
        world.update(human, **fields)
    assert caught.value.data["path"] == path
    assert world[human] is human
    assert world.update(human, tier=Tier.CRITICAL, boost=0) is human
    assert world.update(human, timeout=MINUTE).terms.tier is Tier.CRITICAL


def test_a_critical_job_has_no_boost() -> None:
    world = World(max_concurrent=0)
    job = world.submit(boost=9)
    assert world.update(job, tier=Tier.CRITICAL).terms.boost == 0


def test_a_new_timeout_of_a_running_job_counts_from_its_start() -> None:
    world, job = in_status("running")
    started_at = world.now
    world.now += MINUTE
    assert world.update(job, timeout=HOUR).run.timeout_at == started_at + HOUR
    assert world.tick().wake_at == started_at + HOUR
    assert world.update(job, timeout=None).run.timeout_at is None
    assert world.tick().wake_at is None
    world.update(job, timeout=SECOND)
    assert [stopped.id for stopped in world.tick().stop] == [job.id]


def test_run_at_and_depends_on_move_a_job_to_where_it_now_belongs() -> None:
    world = World(max_concurrent=0)
    upstream = world.submit()
    job = world.submit()
    assert world.update(job, run_at=world.now + HOUR).status is Status.SCHEDULED
    assert world.update(job, depends=(depends(upstream.id),)).status is Status.BLOCKED
    assert world.update(job, run_at=None).status is Status.BLOCKED
    world.now += MINUTE
    free = world.update(job, depends=())
    assert (free.status, free.queued_at) == ("queued", world.now)
    world.hold(job)
    held = world.update(job, depends=(depends(upstream.id),), run_at=world.now + HOUR)
    assert held.status is Status.HELD
    assert world.release(job).status is Status.BLOCKED


def test_an_update_that_leaves_the_job_ready_keeps_its_place() -> None:
    world = World(max_concurrent=0)
    job = world.submit()
    world.now += HOUR
    assert world.update(job, run_at=world.now).queued_at == job.queued_at


def test_an_update_that_makes_a_cycle_is_refused() -> None:
    world = World(max_concurrent=0)
    first = world.submit()
    second = world.submit(depends=(depends(first.id),))
    third = world.submit(depends=(depends(second.id),))
    with pytest.raises(DependencyError) as caught:
        world.update(first, depends=(depends(third.id),))
    assert caught.value.data["cycle"] == [first.id, third.id, second.id, first.id]
    with pytest.raises(DependencyError):
        world.update(first, depends=(depends(first.id),))
    with pytest.raises(DependencyError):
        world.update(first, depends=(depends(99),))


def test_an_update_to_depend_on_what_ended_otherwise_is_judged_as_at_submit() -> None:
    world = World()
    upstream = world.submit(agent="claude", max_retries=0)
    world.started()
    world.end(upstream, "auth")
    blocked, cancelled, goes = (world.submit(held=True) for _ in range(3))
    for job in (blocked, cancelled, goes):
        world.release(job)
    assert world.update(blocked, depends=(depends(upstream.id),)).edges[0].state is EdgeState.UNMET
    world.update(cancelled, depends=(depends(upstream.id, if_unmet="cancel"),))
    assert world[cancelled].status is Status.CANCELLED
    assert world.update(goes, depends=(depends(upstream.id, "failure"),)).status is Status.QUEUED


# --- the queue as a whole -----------------------------------------------------------------------------------


def test_pausing_twice_and_resuming_what_goes_change_nothing() -> None:
    world = World()
    world.pause("group:g")
    world.pause("group:g")
    assert world.settings["paused"] == ["group:g"]
    world.resume("*")
    world.resume("group:g")
    world.resume("group:g")
    assert world.state.pauses.names == set()


def test_a_pause_and_a_size_whose_commit_fails_are_undone() -> None:
    world = World(autocommit=False)
    world.pause("agent:claude")
    world.commit()
    world.resume("agent:claude")
    world.pause("*")
    world.resize(9)
    world.resize(9, "claude")
    world.fail()
    assert world.state.pauses.names == {"agent:claude"}
    assert world.state.max_concurrent == world.limits.max_concurrent
    assert world.state.slots["claude"] == 2


def test_an_agent_that_is_not_configured_has_no_slots_to_resize() -> None:
    world = World()
    with pytest.raises(InvalidParams):
        world.resize(3, "nobody")


def test_pauses_resumes_and_sizes_are_events() -> None:
    world = World(autocommit=False)
    world.pause("agent:claude")
    world.resume("agent:claude")
    world.resize(5)
    world.resize(2, "codex")
    events = [event for decision in world.open for event in decision.events]
    assert [(event.kind, event.detail) for event in events] == [
        ("queue.paused", {"agent": "claude"}),
        ("queue.resumed", {"agent": "claude"}),
        ("pool.resized", {"max_concurrent": 5}),
        ("pool.resized", {"max_concurrent": 2, "agent": "codex"}),
    ]


def test_every_change_grows_the_version_by_one_and_leaves_one_event_in_order() -> None:
    world = World()
    changes = []
    world.watchers.append(changes.append)
    job = world.submit(agent="claude", retry=PRESETS["fast"])
    world.hold(job)
    world.release(job)
    world.tick()
    world.end(job, "agent_error")
    world.tick()
    world.end(job)
    assert [change.after.version for change in changes] == list(range(1, len(changes) + 1))
    assert [change.event.kind for change in changes] == [
        "job.submitted", "job.held", "job.released", "job.started", "job.retrying", "job.queued", "job.started",
        "job.completed",
    ]  # fmt: skip
    cursors = [change.event.cursor for change in changes]
    assert cursors == sorted(set(cursors))


def test_cascade_cancels_what_is_left_of_the_family_of_a_job_that_was_cancelled_before() -> None:
    world = World()
    job = world.submit()
    waiting = world.submit(depends=(depends(job.id),))
    child = world.submit(parent=job.id)
    before = world.cancel(job)
    assert world[waiting].status is Status.BLOCKED
    assert world.cancel(job, cascade=True) is before
    assert [world[one].status for one in (waiting, child)] == [Status.CANCELLED, Status.CANCELLED]
