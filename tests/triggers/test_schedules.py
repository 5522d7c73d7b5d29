"""Schedules with a clock that the test turns, on a real registry: each firing makes one job."""

import asyncio
from zoneinfo import ZoneInfo

import pytest
from msgspec.structs import replace

from opusd.api import params as p
from opusd.api.results import Schedule
from opusd.api.types import JobSpec
from opusd.core.access import Caller
from opusd.core.errors import Conflict, DependencyError, Forbidden, InvalidParams, NotFound, StorageUnavailable
from opusd.core.job import Spec
from opusd.core.lifecycle import Status
from opusd.core.times import from_rfc3339
from opusd.dispatcher.schedules import ScheduleVerbs, _that_fit
from opusd.store.base import CommitFailed
from tests.core.world import PERSON
from tests.dispatcher.bench import BOUND, cancelling, paced, turns
from tests.triggers.bench import DAY, HOUR, MINUTE, ScheduleBench

# --- firing -------------------------------------------------------------------------------------------


async def test_a_firing_makes_one_job_at_its_time_and_not_before(bench):
    added = await bench.add(prompt="tidy up", group="chores")
    assert added.next_at == "2026-01-01T03:00:00.000000Z"
    await bench.is_as_rebuilt()
    await bench.later(3 * HOUR - 0.001)
    assert await bench.fired() == []
    await bench.later(0.001)
    [record] = await bench.jobs()
    job = record.job
    assert (job.key, job.terms.source, job.terms.submitted_by, job.terms.group, record.spec.prompt) == (
        "schedule:nightly:2026-01-01T03:00:00Z", "automated", "schedule:nightly", "chores", "tidy up",
    )  # fmt: skip
    assert job.created_at == from_rfc3339("2026-01-01T03:00:00Z")
    one = bench.one()
    assert (one.last_at, one.last_job, one.next_at) == (
        "2026-01-01T03:00:00.000000Z", 1, "2026-01-02T03:00:00.000000Z",
    )  # fmt: skip
    assert bench.said_of("schedule.fired") == [
        {"schedule": "nightly", "firing": "2026-01-01T03:00:00.000000Z", "job": 1}
    ]


async def test_the_job_and_the_step_past_its_firing_are_one_transaction(bench):
    await bench.add()
    before = len(bench.store.written)
    await bench.later(3 * HOUR)
    [batch] = bench.store.written[before:]
    assert [change.after.id for change in batch.changes] == [1]
    assert batch.settings["schedule:nightly"]["last_job"] == 1


async def test_it_fires_on_every_day_anew(bench):
    await bench.add()
    await bench.later(3 * HOUR)
    await bench.later(DAY)
    await bench.later(DAY)
    assert await bench.fired() == [f"2026-01-0{day}T03:00:00Z" for day in (1, 2, 3)]


async def test_it_sleeps_for_half_a_minute_at_most_and_exactly_until_a_nearer_firing(bench):
    await bench.add(cron="1 0 * * *")
    await bench.later(29)
    turned = bench.clock.waiting
    await bench.later(30.5)
    assert await bench.fired() == []
    await bench.later(0.5)
    assert await bench.fired() == ["2026-01-01T00:01:00Z"]
    assert turned == 1


async def test_schedules_do_not_wait_for_each_other(bench):
    await bench.add("a", "1 0 * * *")
    await bench.add("b", "1 0 * * *", agent="exec", command=["true"])
    await bench.add("c", "2 0 * * *")
    await bench.later(MINUTE)
    assert [record.job.terms.submitted_by for record in await bench.jobs()] == ["schedule:a", "schedule:b"]
    await bench.later(MINUTE)
    assert (await bench.jobs())[2].job.terms.submitted_by == "schedule:c"


# --- restarts, and commits that fail --------------------------------------------------------------------


async def test_a_restart_fires_nothing_again_and_forgets_nothing(bench):
    await bench.add()
    await bench.later(3 * HOUR)
    await bench.down()
    await bench.up()
    await bench.later(MINUTE)
    assert len(await bench.fired()) == 1
    await bench.at("2026-01-02T03:00:00Z")
    assert await bench.fired() == ["2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z"]


async def test_a_daemon_that_dies_while_its_commit_is_on_the_way_has_fired_once_when_it_is_back(bench):
    await bench.add()
    came = len(bench.store.batches)
    bench.store.hold()
    bench.clock.advance(3 * HOUR)
    await bench.store.came(came + 1)
    await bench.down()
    bench.store.open_door()
    await bench.desk.settled()
    await bench.up()
    await bench.later(MINUTE)
    assert await bench.fired() == ["2026-01-01T03:00:00Z"]


async def test_a_firing_whose_commit_failed_is_tried_again_and_makes_one_job(bench):
    await bench.add()
    bench.store.fail_next = [CommitFailed("full")]
    bench.clock.advance(3 * HOUR)
    await bench.said("schedule.postponed")
    assert bench.state.jobs == {}
    assert bench.one().last_at is None
    bench.clock.advance(0.25)
    await bench.said("storage.available")
    await bench.quiet()
    await bench.later(5)
    assert await bench.fired() == ["2026-01-01T03:00:00Z"]


@pytest.mark.parametrize("verb", ["remove", "pause"])
async def test_what_a_person_does_while_a_firing_is_under_way_holds(bench, verb):
    await bench.add()
    asked, answer = asyncio.Event(), asyncio.Event()
    by_key = bench.store.by_key

    async def slowly(keys):
        asked.set()
        await answer.wait()
        return await by_key(keys)

    bench.store.by_key = slowly
    bench.clock.advance(3 * HOUR)
    async with asyncio.timeout(BOUND):
        await asked.wait()
    await getattr(bench.schedules, verb)("nightly", "user:1000")
    answer.set()
    await bench.quiet()
    assert bench.state.last_job == 0
    assert [one.paused for one in bench.schedules.shown(None)] == ([True] if verb == "pause" else [])
    await bench.is_as_rebuilt()


async def test_a_schedule_whose_commit_failed_is_not_there(bench):
    bench.store.fail_next = [CommitFailed("full")]
    with pytest.raises(StorageUnavailable):
        await bench.add()
    with pytest.raises(NotFound):
        bench.one()


# --- misfires -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfire", "fired"),
    [("skip", []), ("once", ["03:00"]), ("all", ["01:00", "02:00", "03:00"])],
)
async def test_what_came_due_while_the_daemon_was_down_is_made_up_for_as_the_schedule_says(bench, misfire, fired):
    await bench.add(cron="0 * * * *", misfire=misfire)
    await bench.down()
    bench.clock.advance(3 * HOUR + 30 * MINUTE)
    await bench.up()
    assert await bench.fired() == [f"2026-01-01T{time}:00Z" for time in fired]
    assert len(bench.said_of("schedule.missed")) == (misfire != "all")
    await bench.later(30 * MINUTE)
    assert (await bench.fired())[-1] == "2026-01-01T04:00:00Z"


@pytest.mark.parametrize(("misfire", "jobs"), [("skip", 0), ("once", 1), ("all", 8)])
async def test_what_came_due_while_the_machine_was_suspended_is_a_misfire(bench, misfire, jobs):
    await bench.add(cron="0 * * * *", misfire=misfire)
    bench.clock.jump(8 * HOUR + 10 * MINUTE)
    await bench.later(30)
    assert len(await bench.fired()) == jobs


async def test_of_a_thousand_missed_firings_the_newest_hundred_are_made_up_for_and_it_says_so(bench):
    await bench.add(cron="* * * * *", misfire="all")
    await bench.down()
    bench.clock.advance(1000 * MINUTE)
    await bench.up()
    fired = await bench.fired()
    assert (len(fired), fired[0], fired[-1]) == (100, "2026-01-01T15:01:00Z", "2026-01-01T16:40:00Z")
    assert len(bench.said_of("schedule.missed")) == 1


async def test_a_clock_that_is_set_back_does_not_fire_again_what_fired(bench):
    await bench.add(cron="0 * * * *")
    await bench.later(2 * HOUR)
    await bench.at("2026-01-01T02:00:30Z")
    bench.clock.jump(-HOUR - 45)
    await bench.later(30)
    await bench.later(HOUR)
    assert await bench.fired() == ["2026-01-01T02:00:00Z"]
    await bench.at("2026-01-01T03:00:00Z")
    assert (await bench.fired())[1:] == ["2026-01-01T03:00:00Z"]


async def test_a_clock_that_was_years_ahead_fires_on_and_nothing_twice(bench):
    await bench.add(cron="0 * * * *")
    await bench.later(HOUR)
    await bench.later(HOUR)
    bench.clock.jump(-2 * HOUR - 10)  # within its patience; then a year ahead, and back
    await bench.later(30)
    bench.clock.jump(365 * DAY)
    await bench.later(30)
    ahead = await bench.fired()
    assert len(ahead) == 3
    bench.clock.jump(-365 * DAY)
    await bench.later(30)
    await bench.at("2026-01-01T01:00:00Z")
    await bench.at("2026-01-01T02:00:00Z")
    await bench.at("2026-01-01T03:00:00Z")
    assert await bench.fired() == [*ahead, "2026-01-01T03:00:00Z"]
    assert bench.one().last_error is None


async def test_what_fired_before_the_clock_was_set_back_does_not_fire_with_another_job_either(bench):
    await bench.add(cron="0 * * * *", prompt="a")
    await bench.at("2026-01-01T05:00:00Z")
    await bench.add(cron="0 * * * *", prompt="b", replace=True)
    bench.clock.jump(-4 * HOUR - MINUTE)
    await bench.later(30)
    for hour in (1, 2, 3, 4, 5, 6):
        await bench.at(f"2026-01-01T0{hour}:00:00Z")
    fired = [(record.job.key[-20:-7], record.spec.prompt) for record in await bench.jobs()]
    assert sorted(fired) == [(f"2026-01-01T0{hour}", "a" if hour == 5 else "b") for hour in range(1, 7)]
    assert bench.said_of("schedule.failed") == []
    assert bench.one().last_error is None


# --- overlaps -------------------------------------------------------------------------------------------


async def test_an_overlap_that_is_skipped_makes_no_job_while_the_last_one_is_unfinished(bench):
    await bench.add(cron="* * * * *", overlap="skip")
    await bench.later(MINUTE)
    await bench.later(MINUTE)
    assert len(await bench.fired()) == 1
    [skipped] = bench.said_of("schedule.skipped")
    assert (skipped["schedule"], skipped["job"]) == ("nightly", 1)
    await bench.writer.command(cancelling(1), "user:1000")
    await bench.later(MINUTE)
    assert await bench.fired() == ["2026-01-01T00:01:00Z", "2026-01-01T00:03:00Z"]


async def test_an_overlap_that_is_queued_makes_each_job(bench):
    await bench.add(cron="* * * * *", overlap="queue")
    for _ in range(3):
        await bench.later(MINUTE)
    assert len(await bench.fired()) == 3


async def test_a_job_that_was_escalated_is_unfinished_until_the_last_of_its_chain_is(bench):
    await bench.add(cron="* * * * *", overlap="skip")
    await bench.later(MINUTE)

    # The chain: job 1 failed and job 2, of another hand, carries on for it.
    def escalated(decision):
        job = decision.state.jobs[1]
        number = decision.next_id()
        carries = replace(job, id=number, key=None, version=1)
        carries = carries.with_extra(escalated_from=1)
        after = replace(job.with_extra(escalated_to=number), status=Status.FAILED, completed_at=decision.now)
        decision.put(job, after, "failed")
        decision.put(None, carries, "submitted", spec=Spec(title="carries on", prompt="go on"))
        return number

    await bench.writer.command(escalated, "scheduler")
    await bench.later(MINUTE)
    assert bench.said_of("schedule.skipped")[-1]["job"] == 1
    await bench.writer.command(cancelling(2), "user:1000")
    await bench.later(MINUTE)
    assert (await bench.jobs())[-1].job.key == "schedule:nightly:2026-01-01T00:03:00Z"


async def test_a_job_that_was_run_by_hand_counts_for_the_overlap_and_so_do_all_before_it(bench):
    await bench.add(cron="* * * * *", overlap="skip")
    await bench.later(MINUTE)
    assert await (await bench.schedules.submit("nightly")) == 2
    await bench.writer.command(cancelling(2), "user:1000")
    await bench.later(MINUTE)
    assert bench.said_of("schedule.skipped")[-1]["job"] == 1
    assert len(await bench.jobs()) == 2


# --- refusals at the firing -----------------------------------------------------------------------------


async def test_a_full_queue_is_tried_again_when_it_says_and_the_firing_is_not_lost(tmp_path):
    async with paced(tmp_path) as store:
        bench = ScheduleBench(store, max_queued=1)
        await bench.up()
        try:
            await bench.submit()
            await bench.add(misfire="skip")
            await bench.later(3 * HOUR)
            [postponed] = bench.said_of("schedule.postponed")
            assert (postponed["schedule"], postponed["again"]) == ("nightly", 60)
            assert "max_queued" in (bench.one().last_error or "")
            assert bench.one().next_at == "2026-01-01T03:00:00.000000Z"
            await bench.later(59)
            assert len(bench.said_of("schedule.postponed")) == 1
            await bench.later(1)
            assert len(bench.said_of("schedule.postponed")) == 2
            await bench.writer.command(cancelling(1), "user:1000")
            await bench.down()
            await bench.up()  # what is owed is owed after a restart, too
            assert (await bench.fired())[1:] == ["2026-01-01T03:00:00Z"]
            assert bench.one().last_error is None
        finally:
            await bench.down()
            await bench.stop()


async def test_a_firing_that_is_refused_for_good_is_passed_over_and_the_listing_says_why(bench):
    await bench.submit()
    await bench.add(prompt="after it", agent="codex")
    agents = {name: agent for name, agent in bench.rules.agents.items() if name != "codex"}
    bench.state.relimit(replace(bench.rules, agents=agents))
    await bench.later(3 * HOUR)
    [failed] = bench.said_of("schedule.failed")
    assert failed["firing"] == "2026-01-01T03:00:00.000000Z"
    one = bench.one()
    assert "codex" in (one.last_error or "")
    assert (one.last_at, one.next_at) == (None, "2026-01-02T03:00:00.000000Z")
    bench.state.relimit(bench.rules)
    await bench.later(DAY)
    assert (await bench.fired())[1:] == ["2026-01-02T03:00:00Z"]
    assert bench.one().last_error is None


# --- what people do -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"cron": "61 * * * *"}, "$.cron"),
        ({"timezone": "Mars/Olympus"}, "$.timezone"),
        ({"name": "two words"}, "$.name"),
        ({"name": "a,b"}, "$.name"),
        ({"agent": "nobody", "prompt": "x"}, "$.job.agent"),
        ({"key": "mine", "prompt": "x"}, "$.job.key"),
        ({"run_at": "2027-01-01T00:00:00Z", "prompt": "x"}, "$.job.run_at"),
        ({"source": "user", "prompt": "x"}, "$.job.source"),
        ({"interactive": True, "prompt": "x"}, "$.job.interactive"),
        ({"priority": "critical", "prompt": "x"}, "$.job.priority"),
        ({"timeout": "soon", "prompt": "x"}, "$.job.timeout"),
        ({"retry": "never-heard", "prompt": "x"}, "$.job.retry"),
        ({"cwd": "here", "prompt": "x"}, "$.job.cwd"),
        ({"command": [], "agent": "exec"}, "$.job.command"),
        ({"env": {"API_KEY": "abc"}, "prompt": "x"}, "$.job.env.API_KEY"),
    ],
)
async def test_what_submit_would_refuse_is_refused_when_it_is_added(bench, fields, path):
    written = len(bench.store.written)
    with pytest.raises(InvalidParams) as refused:
        await bench.add(**fields)
    assert refused.value.data["path"] == path
    assert "index" not in refused.value.data
    assert len(bench.store.written) == written
    await bench.is_as_rebuilt()


async def test_a_job_that_waits_for_an_unknown_one_is_refused(bench):
    with pytest.raises(DependencyError):
        await bench.add(prompt="x", depends_on=[77])


async def test_a_full_queue_does_not_keep_a_schedule_from_being_added(tmp_path):
    async with paced(tmp_path) as store:
        bench = ScheduleBench(store, max_queued=0)
        await bench.up()
        try:
            assert (await bench.add()).name == "nightly"
            assert bench.state.last_job == 0
        finally:
            await bench.down()
            await bench.stop()


async def test_a_name_that_is_taken_is_refused_unless_it_asks_for_the_same_or_to_replace(bench):
    await bench.add(prompt="tidy up")
    kinds = await bench.kinds()
    assert (await bench.add(prompt="tidy up")).name == "nightly"
    assert await bench.kinds() == kinds
    with pytest.raises(Conflict, match="replace"):
        await bench.add(prompt="something else")
    changed = await bench.add(prompt="something else", replace=True)
    assert changed.job == {"prompt": "something else"}
    assert await bench.kinds() == [*kinds, "schedule.replaced"]


async def test_one_that_takes_another_place_goes_on_where_it_was_if_it_fires_as_it_did(bench):
    await bench.add(cron="0 * * * *", prompt="a")
    await bench.later(HOUR)
    await bench.down()
    bench.clock.advance(HOUR + 10 * MINUTE)
    await bench.up()
    assert await bench.fired() == ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"]
    again = await bench.add(cron="0 * * * *", prompt="b", replace=True)
    assert (again.last_job, again.next_at) == (2, "2026-01-01T03:00:00.000000Z")
    other = await bench.add(cron="5 * * * *", prompt="b", replace=True)
    assert (other.last_job, other.next_at) == (2, "2026-01-01T03:05:00.000000Z")
    assert len(await bench.fired()) == 2


async def test_a_paused_schedule_fires_nothing_and_makes_nothing_up_when_it_goes_on(bench):
    await bench.add(cron="0 * * * *", misfire="all")
    paused = await bench.schedules.pause("nightly", "user:1000")
    assert (paused.paused, paused.next_at) == (True, None)
    await bench.quiet()
    await bench.later(5 * HOUR + 10)
    await bench.down()
    await bench.up()
    assert bench.one().paused
    resumed = await bench.schedules.resume("nightly", "user:1000")
    await bench.quiet()
    assert (resumed.paused, resumed.next_at) == (False, "2026-01-01T06:00:00.000000Z")
    assert await bench.fired() == []
    await bench.at("2026-01-01T06:00:00Z")
    assert await bench.fired() == ["2026-01-01T06:00:00Z"]


async def test_pausing_what_is_paused_changes_nothing(bench):
    await bench.add()
    for _ in range(2):
        await bench.schedules.pause("nightly", "user:1000")
    for _ in range(2):
        await bench.schedules.resume("nightly", "user:1000")
    assert await bench.kinds() == ["schedule.added", "schedule.paused", "schedule.resumed"]


async def test_a_removed_schedule_fires_no_more_and_its_jobs_stay(bench):
    await bench.add(cron="* * * * *")
    await bench.later(MINUTE)
    await bench.schedules.remove("nightly", "user:1000")
    await bench.quiet()
    await bench.later(5 * MINUTE)
    assert len(await bench.fired()) == 1
    with pytest.raises(NotFound):
        bench.one()
    await bench.down()
    await bench.up()
    assert bench.schedules.shown(None) == []


async def test_run_submits_now_also_when_it_is_paused_and_moves_no_firing(bench):
    await bench.add(overlap="skip")
    await bench.schedules.pause("nightly", "user:1000")
    assert await (await bench.schedules.submit("nightly")) == 1
    assert await (await bench.schedules.submit("nightly")) == 2
    [first, second] = await bench.jobs()
    assert (first.job.key, second.job.terms.submitted_by) == (None, "schedule:nightly")
    one = bench.one()
    assert (one.last_job, one.last_at) == (2, None)
    with pytest.raises(NotFound):
        await bench.schedules.submit("nobody")


async def test_what_is_added_while_it_sleeps_fires_in_time(bench):
    await bench.add("late", "0 12 * * *")
    await bench.later(10)
    await bench.add("soon", "1 0 * * *")
    await bench.later(50)
    assert len(await bench.fired()) == 1


async def test_a_schedule_of_a_zone_that_is_gone_says_so_and_keeps_nobody_from_firing(bench, monkeypatch):
    await bench.add("gone", "* * * * *", timezone="Europe/Berlin")
    await bench.add("here", "* * * * *")
    await bench.down()

    def gone(name):
        raise ValueError(f"{name!r} is no time zone")

    monkeypatch.setattr("opusd.triggers.almanac.named_zone", gone)
    await bench.up()
    await bench.later(MINUTE)
    assert [record.job.terms.submitted_by for record in await bench.jobs()] == ["schedule:here"]
    unread = bench.one("gone")
    assert (unread.next_at, unread.last_error) == (None, "$.timezone: 'Europe/Berlin' is no time zone")
    assert len(bench.said_of("schedule.unreadable")) == 1


async def test_a_reload_reads_the_zone_of_the_machine_again_and_tries_again_what_was_refused(bench):
    await bench.add()
    bench.state.limits = replace(bench.rules, max_queued=0)
    await bench.later(3 * HOUR)
    assert len(bench.said_of("schedule.postponed")) == 1
    bench.state.limits = bench.rules
    bench.local = ZoneInfo("Europe/Berlin")
    bench.schedules.configure()
    await bench.quiet()
    assert await bench.fired() == ["2026-01-01T03:00:00Z"]
    assert bench.one().next_at == "2026-01-02T02:00:00.000000Z"


async def test_it_fires_in_its_zone_and_else_in_that_of_the_machine(bench):
    berlin = await bench.add("berlin", timezone="Europe/Berlin")
    local = await bench.add("local")
    assert (berlin.next_at, local.next_at) == ("2026-01-01T02:00:00.000000Z", "2026-01-01T03:00:00.000000Z")


async def test_a_list_that_one_reply_would_not_hold_leaves_out_what_is_long():
    def big(name):
        return Schedule(
            name=name, cron="@daily", timezone=None, misfire="once", overlap="queue", paused=False, next_at=None,
            last_at=None, last_job=None, last_error=None, job={"prompt": "x" * (1 << 20), "title": "big"},
        )  # fmt: skip

    shown = _that_fit([big(str(number)) for number in range(5)])
    assert [sorted(one.job) for one in shown] == [["prompt", "title"]] * 2 + [["title"]] * 3


# --- rights ---------------------------------------------------------------------------------------------


class Session:
    def __init__(self, caller):
        self.caller = caller
        self.turn = asyncio.Lock()


CALLS = {
    "schedule_add": p.ScheduleAdd(name="mine", cron="@daily", job=JobSpec(prompt="x")),
    "schedule_remove": p.ScheduleRemove(name="nightly"),
    "schedule_pause": p.SchedulePause(name="nightly"),
    "schedule_resume": p.ScheduleResume(name="nightly"),
    "schedule_run": p.ScheduleRun(name="nightly"),
}


@pytest.mark.parametrize("verb", CALLS)
async def test_a_jobs_agent_may_change_no_schedule(bench, verb):
    await bench.add()
    kinds = await bench.kinds()
    verbs = ScheduleVerbs(bench.desk, bench.schedules)
    with pytest.raises(Forbidden):
        await getattr(verbs, verb)(Session(Caller(agent=True, job=1, attempt=1)), CALLS[verb])
    assert await bench.kinds() == kinds


async def test_a_jobs_agent_may_list_them_and_a_person_may_do_all(bench):
    verbs = ScheduleVerbs(bench.desk, bench.schedules)
    person = Session(PERSON)
    await verbs.schedule_add(person, CALLS["schedule_add"])
    listed = await verbs.schedule_list(Session(Caller(agent=True, job=1, attempt=1)), p.ScheduleList())
    assert [one.name for one in listed.schedules] == ["mine"]
    paused = await verbs.schedule_pause(person, p.SchedulePause(name="mine"))
    submitted = await verbs.schedule_run(person, p.ScheduleRun(name="mine"))
    assert (paused.paused, submitted.created, submitted.job.submitted_by) == (True, True, "schedule:mine")
    await verbs.schedule_resume(person, p.ScheduleResume(name="mine"))
    await verbs.schedule_remove(person, p.ScheduleRemove(name="mine"))
    assert bench.schedules.shown(None) == []


async def test_a_list_shows_nothing_that_is_not_on_disk(bench):
    verbs = ScheduleVerbs(bench.desk, bench.schedules)
    await bench.add()
    bench.store.hold()
    removing = asyncio.create_task(verbs.schedule_remove(Session(PERSON), p.ScheduleRemove(name="nightly")))
    listing = asyncio.create_task(verbs.schedule_list(Session(PERSON), p.ScheduleList()))
    await turns(20)
    assert not listing.done()
    bench.store.open_door()
    await removing
    assert (await listing).schedules == []
