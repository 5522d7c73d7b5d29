"""From the audit trail to sinks: nothing lost, nothing told twice under another id, nobody waited for."""

import asyncio
from datetime import UTC
from functools import partial

import pytest
from msgspec.structs import replace

from opusd.api.results import NotificationInfo, NotificationTested
from opusd.config.hours import Days
from opusd.core import budgets, commands, cooling, scheduler
from opusd.core.errors import NotFound
from opusd.core.job import Spec
from opusd.core.limits import Budget
from opusd.core.times import HOUR, MINUTE
from opusd.observers import notifier as module
from opusd.observers import outbox as outbox_module
from opusd.observers.outbox import DELAYS
from opusd.observers.sending import Sent
from opusd.store.base import CommitFailed
from tests.core.world import AGENTS, limits
from tests.dispatcher.bench import turns
from tests.observers.bench import REFUSED, data, sink


def jobs(bench, name="desk"):
    """The jobs that a sink was told of, in order, tries of the same message once."""
    return list({entry.id: entry.job for to, entry in bench.tried if to == name}.values())


async def test_a_dead_letter_is_told_of_once_and_then_forgotten(bench):
    await bench.begin(sink())
    job = await bench.fails()
    [(_, entry)] = await bench.tries(1)
    assert (entry.kind, entry.job) == ("job.failed", job.id)
    assert data(entry)["class"] == "agent_error"
    await bench.taken(1)
    assert await bench.outbox() == []
    second = await bench.fails()
    await bench.tries(2)
    assert jobs(bench) == [job.id, second.id]


async def test_every_sink_is_told_under_an_id_of_its_own(bench):
    await bench.begin(sink("a"), sink("b"), sink("c", "expired"))
    await bench.fails()
    tried = await bench.tries(2)
    assert sorted(name for name, _ in tried) == ["a", "b"]
    assert tried[0][1].id != tried[1][1].id


async def test_a_failure_is_tried_again_by_the_schedule_with_the_same_id_and_body_then_given_up_loudly(bench):
    notifier = await bench.begin(sink())
    bench.answers["desk"] = [REFUSED] * 10
    job = await bench.fails()
    for number, delay in enumerate(DELAYS, 1):
        await bench.tries(number)
        await bench.said("notification.failed", number)
        assert notifier.trouble() == ["notification desk: HTTP 500; 1 wait, 0 were given up"]
        bench.clock.advance(delay / 1e6 - 1)
        await bench.clock.until_waiting()
        assert len(bench.tried) == number, "sooner than the schedule says"
        bench.clock.advance(delay / 1e7 + 1)
    await bench.tries(10)
    await bench.said("notification.dropped")
    assert notifier.about() == [
        NotificationInfo(
            name="desk", to="command", on=["failed"], waiting=0, sent=0, failed=10, dropped=1, gone=False,
            problem="HTTP 500",
        )
    ]  # fmt: skip
    assert len({(entry.id, entry.body) for _, entry in bench.tried}) == 1
    assert notifier.trouble() == ["notification desk: HTTP 500; 0 wait, 1 were given up"]
    assert await bench.outbox() == []
    fields = dict(bench.log)["notification.dropped"]
    assert (fields["level"], fields["sink"], fields["job"]) == ("error", "desk", job.id)


async def test_a_sink_that_asks_for_a_rest_gets_it_for_all_its_messages(bench):
    await bench.begin(sink())
    bench.answers["desk"] = [Sent(ok=False, message="HTTP 429", rest=3600.0)]
    first = await bench.fails()
    await bench.said("notification.failed")
    second = await bench.fails()
    await bench.waits(2)
    bench.clock.advance(3599)
    await bench.clock.until_waiting()
    assert len(bench.tried) == 1
    bench.clock.advance(1)
    await bench.taken(2)
    assert jobs(bench) == [first.id, second.id]


async def test_a_receiver_that_is_gone_is_left_alone_until_the_configuration_is_read_again(bench):
    notifier = await bench.begin(sink())
    bench.answers["desk"] = [Sent(ok=False, message="HTTP 410", gone=True)]
    await bench.fails()
    await bench.said("notification.failed")
    assert "given up until a reload" in notifier.trouble()[0]
    await bench.fails()
    await bench.waits(2)
    bench.clock.advance(3 * 24 * 3600)
    await bench.clock.until_waiting()
    assert len(bench.tried) == 1
    notifier.configure([sink()])
    await bench.taken(2)
    assert notifier.trouble() == []


async def test_a_sink_that_hangs_keeps_nobody_waiting_and_has_one_message_under_way(bench):
    await bench.begin(sink("slow"), sink("quick"))
    hangs = asyncio.get_running_loop().create_future()
    bench.answers["slow"] = [hangs]
    first, second = await bench.fails(), await bench.fails()
    await bench.taken(2, "quick")
    assert jobs(bench, "quick") == [first.id, second.id]
    assert jobs(bench, "slow") == [first.id]
    hangs.set_result(Sent(ok=True))
    await bench.taken(2, "slow")


async def test_what_was_under_way_when_the_daemon_died_is_sent_again_with_the_same_id(bench):
    await bench.begin(sink())
    bench.answers["desk"] = [asyncio.get_running_loop().create_future()]
    await bench.fails()
    await bench.tries(1)
    await bench.die()
    await bench.begin(sink())
    (_, first), (_, second) = await bench.tries(2)
    assert (first.id, first.body) == (second.id, second.body)
    await bench.taken(1)
    assert await bench.outbox() == []


async def test_what_happened_while_nobody_listened_is_told_of_at_the_next_start(bench):
    await bench.begin(sink())
    first = await bench.fails()
    await bench.taken(1)
    await bench.die()
    missed = [await bench.fails(), await bench.fails()]
    await bench.begin(sink())
    await bench.taken(2)
    assert jobs(bench) == [first.id, *(job.id for job in missed)]


async def test_a_pending_retry_is_remembered_over_a_restart(bench):
    await bench.begin(sink())
    bench.answers["desk"] = [REFUSED, REFUSED]
    await bench.fails()
    await bench.said("notification.failed")
    bench.clock.advance(6)
    await bench.said("notification.failed", 2)
    await bench.die()
    await bench.begin(sink())
    bench.clock.advance(200)
    await bench.clock.until_waiting()
    assert len(bench.tried) == 2
    bench.clock.advance(200)
    await bench.tries(3)
    assert [entry.tries for _, entry in bench.tried] == [0, 1, 2]


async def test_a_new_sink_and_a_new_word_are_not_told_of_what_was_before(bench):
    await bench.begin(sink("old", "failed"))
    await bench.fails()
    await bench.taken(1, "old")
    await bench.die()
    await bench.fails()
    asked = await bench.started(agent="claude")
    await bench.end(asked, question=("which?", ()))
    await bench.begin(sink("old", "failed", "needs_input"), sink("new", "failed"))
    await bench.taken(1, "old")
    last = await bench.fails()
    await bench.taken(1, "new")
    assert jobs(bench, "new") == [last.id]
    await bench.taken(2, "old")
    assert {entry.kind for _, entry in bench.tried} == {"job.failed"}


async def test_without_sinks_nothing_is_written_and_history_is_not_told_of_later(bench):
    notifier = await bench.begin()
    await bench.fails()
    assert await bench.notified() is None
    notifier.configure([sink()])
    job = await bench.fails()
    await bench.taken(1)
    assert jobs(bench) == [job.id]
    await bench.die()
    await bench.begin()
    async with asyncio.timeout(5), bench.store.arrived:
        await bench.store.arrived.wait_for(lambda: "notified" in bench.store.written[-1].settings)
    assert await bench.notified() is None


async def test_a_commit_that_fails_loses_no_message_and_doubles_none(bench):
    await bench.begin(sink())
    await bench.fails()
    await bench.taken(1)
    job = await bench.submit(agent="codex")
    job = await bench.start(job)
    bench.store.hold()
    ending = asyncio.create_task(bench.end(job, "agent_error"))
    seen = len(bench.store.batches)
    await bench.store.came(seen + 1)
    bench.store.let()  # the end of the job is on disk; what is told of it waits at the door
    await ending
    await bench.store.came(seen + 2)
    assert any(name.startswith("outbox:") for name in bench.store.batches[-1].settings)
    bench.store.fail_next = [CommitFailed("the disk is full")]
    bench.store.open_door()
    await bench.said("storage.unavailable")
    assert len(bench.tried) == 1
    await bench.recovers(0.25)
    await bench.taken(2)
    last = await bench.fails()
    await bench.taken(3)
    assert jobs(bench)[1:] == [job.id, last.id]


async def test_messages_leave_in_the_order_of_events_over_any_number_of_pages(bench, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 3)
    await bench.begin(sink())
    await bench.fails()
    await bench.taken(1)
    await bench.die()
    missed = [await bench.fails() for _ in range(8)]
    await bench.begin(sink())
    await bench.taken(8)
    assert jobs(bench)[1:] == [job.id for job in missed]


async def test_the_cursor_is_written_down_now_and_then_when_nobody_is_told_of_anything(bench, monkeypatch):
    monkeypatch.setattr(module, "_LAG", 10)
    await bench.begin(sink("desk", "escalated"))
    for _ in range(8):
        await bench.fails()
    async with asyncio.timeout(5), bench.store.arrived:
        await bench.store.arrived.wait_for(
            lambda: any(batch.settings.get("notified", {}).get("cursor", 0) > 10 for batch in bench.store.written)
        )


async def test_a_fault_in_sending_is_a_failed_try_and_no_end(bench):
    await bench.begin(sink())
    bench.answers["desk"] = [RuntimeError("oops")]
    await bench.fails()
    await bench.said("notification.failed")
    assert dict(bench.log)["notification.failed"]["message"] == "it can't be sent: RuntimeError"
    bench.clock.advance(6)
    await bench.taken(1)


async def test_of_too_many_messages_the_oldest_go_with_a_word_about_it(bench, monkeypatch):
    monkeypatch.setattr(outbox_module, "MOST", 2)
    notifier = await bench.begin(sink())
    bench.answers["desk"] = [Sent(ok=False, message="HTTP 503", rest=3600.0)]
    await bench.fails()
    await bench.said("notification.failed")
    kept = [await bench.fails(), await bench.fails()]
    await bench.said("notification.dropped")
    assert await bench.outbox() == ["job.failed"] * 2
    assert "1 were given up" in notifier.trouble()[0]
    bench.clock.advance(3600)
    await bench.taken(2)
    assert jobs(bench)[1:] == [job.id for job in kept]


async def test_messages_of_a_sink_that_was_taken_out_of_the_configuration_go(bench):
    notifier = await bench.begin(sink("desk"), sink("other"))
    bench.answers["other"] = [REFUSED]
    await bench.fails()
    await bench.said("notification.failed")
    await bench.taken(1)
    notifier.configure([sink("desk")])
    await bench.said("notification.dropped")
    assert await bench.outbox() == []


async def test_a_message_that_was_dropped_while_it_was_under_way_does_not_come_back(bench):
    notifier = await bench.begin(sink("desk"), sink("other"))
    hangs = asyncio.get_running_loop().create_future()
    bench.answers["other"] = [hangs]
    await bench.fails()
    await bench.taken(1)
    await bench.tries(2)
    notifier.configure([sink("desk")])
    await bench.said("notification.dropped")
    hangs.set_result(REFUSED)
    await bench.said("notification.failed")
    assert await bench.outbox() == []


# --- what the core decides ------------------------------------------------------------------------


async def test_escalation_is_told_of_instead_of_a_dead_letter_which_the_last_link_is(bench):
    agents = {**AGENTS, "codex": replace(AGENTS["codex"], escalate_to="claude")}
    bench.state.relimit(limits(agents=agents))
    await bench.begin(sink("desk", "failed", "escalated"))
    job = await bench.started(agent="codex")
    await bench.end(job, "auth", message="no", spec=Spec(title="t", prompt="p"))
    await bench.taken(1)
    link = max(bench.state.jobs)
    await bench.end(await bench.start(bench.state.jobs[link]), "auth")
    await bench.taken(2)
    (_, escalated), (_, failed) = bench.tried
    assert (escalated.kind, escalated.job, failed.kind, failed.job) == ("job.escalated", job.id, "job.failed", link)
    assert data(escalated)["escalated_to"] == link
    assert data(escalated)["escalated_to_agent"] == data(failed)["agent"] == "claude"


async def test_a_question_is_told_of_and_its_expiry_too(bench):
    await bench.begin(sink("desk", "needs_input", "expired", include=frozenset({"question"})))
    job = await bench.started(agent="claude")
    await bench.end(job, question=("which one?", ("a", "b")))
    await bench.taken(1)
    bench.clock.advance(8 * 24 * 3600)
    await bench.decide(lambda decision: scheduler.tick(decision, lambda: ("a", b"")))
    await bench.taken(2)
    (_, asked), (_, expired) = bench.tried
    assert (data(asked)["question"], data(asked)["question_text"], data(asked)["options"]) == (
        1,
        "which one?",
        ["a", "b"],
    )
    assert (expired.kind, data(expired)["reason"]) == ("job.expired", "nobody answered its question")


async def test_a_job_that_was_queued_for_too_long_is_told_of(bench):
    await bench.begin(sink("desk", "expired"))
    await bench.submit(agent="pull", expires_in=MINUTE)
    bench.clock.advance(61)
    await bench.decide(lambda decision: scheduler.tick(decision, lambda: ("a", b"")))
    [(_, entry)] = await bench.tries(1)
    assert data(entry)["reason"] == "it was queued for too long"


def use(state, number, usage, decision):
    budgets.use(decision, state.jobs[number], usage)


async def test_a_budget_that_is_nearly_used_up_is_told_of_and_no_other_update(bench):
    budget = Budget(days=Days(UTC), job_tokens=100)
    bench.state.relimit(limits(agents={**AGENTS, "codex": replace(AGENTS["codex"], budget=budget)}))
    await bench.begin(sink("desk", "budget"))
    job = await bench.started(agent="codex")
    await bench.decide(lambda decision: decision.put(bench.state.jobs[job.id], bench.state.jobs[job.id], "updated"))
    for used in (50, 85, 90):
        await bench.decide(partial(use, bench.state, job.id, {"input_tokens": used}))
    await bench.taken(1)
    [(_, entry)] = bench.tried
    assert (entry.kind, data(entry)["used"], data(entry)["limit"]) == ("job.budget", 85, 100)


async def test_an_event_of_another_version_ends_nothing(bench):
    await bench.begin(sink("desk", "rate_limited", "failed"))
    await bench.decide(lambda decision: decision.note("agent.cooling"))
    await bench.fails()
    await bench.taken(2)


# --- a drained queue ------------------------------------------------------------------------------


async def test_the_queue_is_drained_when_the_last_job_leaves_it_and_not_before(bench):
    await bench.begin(sink("desk", "drained"))
    first, second = await bench.started(agent="codex"), await bench.submit(agent="codex")
    await bench.end(first)
    second = await bench.start(second)
    await bench.end(second)
    [(_, entry)] = await bench.tries(1)
    assert (entry.kind, data(entry)["unfinished"]) == ("queue.drained", 0)
    await bench.taken(1)
    await bench.end(await bench.started(agent="codex"))
    await bench.taken(2)
    assert len(bench.tried) == 2


async def test_a_job_that_waits_for_its_retry_or_is_held_is_told_apart(bench):
    await bench.begin(sink("desk", "drained", "failed", "rate_limited"))
    held = await bench.submit(agent="codex")
    job = await bench.started(agent="claude")
    await bench.decide(lambda decision: commands.hold(decision, bench.state.jobs[held.id], stop=False, grace=0))
    retrying = await bench.end(job, "agent_error")
    assert retrying.status == "retrying"
    await bench.decide(
        lambda decision: commands.cancel(decision, bench.state.jobs[job.id], reason=None, grace=0, cascade=False)
    )
    [(_, entry)] = await bench.tries(1)
    assert data(entry)["unfinished"] == 1
    await bench.taken(1)
    await bench.decide(
        lambda decision: commands.cancel(decision, bench.state.jobs[held.id], reason=None, grace=0, cascade=False)
    )
    await bench.decide(lambda decision: cooling.limited(decision, "claude", None, 0.0))
    await bench.taken(2)  # by now it has looked at the cancelled job
    await bench.fails()
    tried = await bench.tries(3)
    assert [entry.kind for _, entry in tried[:3]] == ["queue.drained", "agent.cooling", "job.failed"]


async def test_jobs_that_end_one_commit_apart_drain_the_queue_once(bench):
    notifier = await bench.begin(sink("desk", "drained", "failed"))
    first, second = await bench.started(agent="codex"), await bench.started(agent="codex")
    bench.store.hold()
    ending = [asyncio.create_task(bench.end(first))]
    await bench.store.came(len(bench.store.batches) + 1)
    ending.append(asyncio.create_task(bench.end(second)))
    await turns()  # in memory both have ended
    bench.store.let()
    await ending[0]
    async with asyncio.timeout(5):
        while not notifier.about()[0].waiting:  # told by the first, which alone is on disk
            await turns()
    bench.store.open_door()
    await ending[1]
    await bench.fails()
    tried = await bench.tries(3)
    assert [entry.kind for _, entry in tried[:2]] == ["queue.drained", "job.failed"]


async def test_a_queue_that_drained_while_no_daemon_told_of_it_is_told_of_at_the_start(bench):
    await bench.begin(sink("desk", "drained"))
    job = await bench.started(agent="codex")
    await bench.die()
    await bench.end(job)
    await bench.begin(sink("desk", "drained"))
    await bench.taken(1)
    assert [entry.kind for _, entry in bench.tried] == ["queue.drained"]


# --- rate limits ----------------------------------------------------------------------------------


async def test_an_agent_that_cools_down_is_told_of_once_until_it_is_ready_again(bench):
    await bench.begin(sink("desk", "rate_limited"))

    async def limited(after):
        until = bench.clock.now() + after
        await bench.decide(lambda decision: cooling.limited(decision, "claude", until, 0.0))

    await limited(HOUR)
    await bench.taken(1)
    await limited(2 * HOUR)
    bench.clock.advance(90 * 60)
    await limited(HOUR)  # within the longer of the two
    bench.clock.advance(24 * 3600)
    await limited(HOUR)
    await bench.taken(2)
    await bench.decide(lambda decision: cooling.ready(decision, "claude"))
    await limited(MINUTE)
    await bench.taken(3)
    assert len(bench.tried) == 3
    assert {data(entry)["agent"] for _, entry in bench.tried} == {"claude"}


# --- trying it out --------------------------------------------------------------------------------


async def test_a_sink_is_tested_at_once_and_leaves_nothing_in_the_outbox(bench):
    notifier = await bench.begin(sink())
    bench.answers["desk"] = [REFUSED]
    assert await notifier.test("desk") == NotificationTested(ok=False, problem="HTTP 500")
    assert await notifier.test("desk") == NotificationTested(ok=True, problem=None)
    assert {entry.kind for _, entry in bench.tried} == {"notification.test"}
    assert await bench.outbox() == []
    with pytest.raises(NotFound, match="there is no notification 'dask'; there are: desk"):
        await notifier.test("dask")
