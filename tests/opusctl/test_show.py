from __future__ import annotations

import re

import pytest

NOW = "2025-11-24T09:00:00.000000Z"
LATER = "2025-11-24T09:02:05.000000Z"


def an_attempt(number=1, **fields):
    return {
        "attempt": number, "agent": "claude", "started_at": NOW, "ended_at": LATER, "class": "timeout",
        "message": "no end after 2m", "exit_code": 143, "signal": None, "log_bytes": 10,
    } | fields  # fmt: skip


def an_event(kind="job.submitted", **fields):
    return {
        "cursor": 1, "time": NOW, "kind": kind, "job": 5, "attempt": None, "from": None, "to": "queued",
        "actor": "user:1000", "detail": None,
    } | fields  # fmt: skip


def test_a_queued_job_shows_what_why_and_its_place_in_the_order(opusctl, daemon, job):
    daemon.answers["job.get"] = job(
        5, prompt="Fix\nthe\tlogin\x1b[2J", route="reviews", ahead=3, position=2, labels=["a", "b"], boost=-4,
        inherits={"tier": "critical", "job": 9}, dependents=[9], needs={"gpu": 1},
        env={"A": "b", "T": {"from_env": "X"}},
        depends_on=[{"job": 2, "on": "any", "if_unmet": "cancel", "state": "satisfied"}], key="k", parent=1, root=1,
    )  # fmt: skip
    ran = opusctl("show", "5")
    assert ran.code == 0
    for line in (
        "claude (by route reviews)", "waits for a slot", "critical from job 9, which waits for it",
        "position 2 for claude, 3 jobs ahead", "job 2 on any if unmet cancel (satisfied)", "normal -4", "gpu=1",
        "A=b, T from env X", "user:1000 (user)", "    the login\\x1b[2J", "job 1",
    ):  # fmt: skip
        assert line in ran.out, line
    assert not daemon.sent("job.history")  # no attempts, nothing to ask
    assert "\x1b" not in ran.out


def test_a_failed_job_shows_its_attempts_and_its_error(opusctl, daemon, job):
    error = {"class": "timeout", "message": "no end after 2m", "exit_code": 143, "signal": None}
    daemon.answers |= {
        "job.get": job(5, "failed", attempts=2, retries=1, error=error, command=["make", "a b"], completed_at=LATER),
        "job.history": {"events": [], "attempts": [an_attempt(1), an_attempt(2)], "chain": [5]},
    }
    ran = opusctl("show", "5")
    assert "make 'a b'" in ran.out
    assert "   2  claude  timeout  2m 5s  no end after 2m, exit 143" in ran.out
    assert "retries used: 1" in ran.out
    assert re.search(r"exit code +143", ran.out)
    assert re.search(r"took +2m 5s", ran.out)
    assert "order\n" not in ran.out


def test_a_completed_job_shows_its_result_and_usage(opusctl, daemon, job):
    usage = {"input_tokens": 1200, "output_tokens": 80, "cached_tokens": None, "cost_usd": 0.42}
    daemon.answers |= {
        "job.get": job(5, "completed", result={"summary": "all\ngood", "data": {"n": 1}}, usage=usage),
        "job.history": {
            "events": [],
            "attempts": [an_attempt(**{"class": None, "message": None, "exit_code": 0})],
            "chain": [5],
        },
    }
    ran = opusctl("show", "5")
    assert "    good\n" in ran.out
    assert '{"n": 1}' in ran.out
    assert "tokens: 1,200 input, 80 output  $0.42" in ran.out
    assert "   1  claude  ok  2m 5s\n" in ran.out


def test_a_long_prompt_is_cut_unless_asked_for(opusctl, daemon, job):
    daemon.answers["job.get"] = job(5, prompt="\n".join(f"line {n}" for n in range(40)))
    ran = opusctl("show", "5")
    assert "line 11" in ran.out
    assert "line 12" not in ran.out
    assert "28 more lines: --full" in ran.out
    assert "line 39" in opusctl("show", "5", "--full").out


def test_one_unknown_job_does_not_hide_the_others(opusctl, daemon, job, refusal):
    def get(params):
        if params["id"] == 4:
            raise refusal(-32001, "not_found", "there is no job 4")
        return job(5)

    daemon.answers["job.get"] = get
    ran = opusctl("show", "4", "5")
    assert ran.code == 4
    assert "there is no job 4" in ran.err
    assert "job 5" in ran.out


@pytest.mark.parametrize(
    ("status", "says"),
    [("queued", "nothing keeps it from running"), ("running", "it runs"), ("completed", "it is finished")],
)
def test_why_says_that_nothing_is_in_the_way(status, says, opusctl, daemon, job):
    daemon.answers |= {"job.get": job(5, status=status), "job.why": {"runnable": True, "constraints": []}}
    assert says in opusctl("why", "5").out


def test_a_scheduled_job_says_until_when(opusctl, daemon, job):
    daemon.answers["job.hold"] = job(5, status="scheduled", reason="not before its run_at", run_at=LATER)
    assert f"is scheduled: not before {LATER[:19]}Z, " in opusctl("hold", "5").out


@pytest.mark.parametrize("verb", ["show", "why"])
def test_an_expired_job_says_why(verb, opusctl, daemon, job):
    reason = "nobody answered its question by 2025-12-01T09:00:00.000000Z: Which one?"
    daemon.answers |= {
        "job.get": job(5, "expired", reason=reason),
        "job.why": {"runnable": False, "constraints": [{"kind": "expired", "detail": reason}]},
    }
    assert reason in opusctl(verb, "5").out


def test_why_draws_each_constraint(opusctl, on_terminal, daemon, job):
    daemon.answers |= {
        "job.get": job(5, reason="agent claude cools down"),
        "job.why": {
            "runnable": False,
            "constraints": [
                {"kind": "cooldown", "detail": "claude is limited", "until": LATER},
                {"kind": "slots", "detail": "all 3 slots are busy", "until": None},
            ],
        },
    }
    ran = opusctl("why", "5")
    assert ran.out.splitlines() == [
        "job 5 (Fix the login) is queued: agent claude cools down",
        f"├─ cooldown  claude is limited (until {LATER})",
        "└─ slots     all 3 slots are busy",
    ]
    assert opusctl("why", "5", "--json").json["runnable"] is False
    assert "├─ " in on_terminal("why", "5").out


def test_history_draws_the_chain_of_agents_that_carried_on(opusctl, daemon, job):
    links = {
        5: job(5, "failed", agent="first", escalated_to=6, error={"class": "auth", "message": "no key"}),
        6: job(6, "failed", agent="second", escalated_from=5, escalated_to=7, error={"class": "timeout"}),
        7: job(7, "running", agent="third", escalated_from=6),
    }
    daemon.answers |= {
        "job.history": {"events": [], "attempts": [], "chain": [5, 6, 7]},
        "job.get": lambda params: links[params["id"]],
    }
    ran = opusctl("history", "6")
    assert ran.out.splitlines()[-4:] == [
        "chain",
        "  job 5  first  failed  auth: no key",
        "  └▶ job 6  second  failed  timeout",
        "     └▶ job 7  third  running",
    ]
    assert opusctl("history", "6", "-q").out == "5\n6\n7\n"


def test_history_prints_events_and_attempts(opusctl, daemon):
    events = [
        an_event(),
        an_event("job.started", attempt=1, actor="scheduler", **{"from": "queued", "to": "running"}),
        an_event("job.retrying", actor="scheduler", detail={"message": "exit 1\x1b", "delay": 2}),
    ]
    daemon.answers["job.history"] = {"events": events, "attempts": [an_attempt()], "chain": [5]}
    ran = opusctl("history", "5")
    assert "attempt 1, queued -> running" in ran.out
    assert "message exit 1\\x1b, delay 2" in ran.out
    assert "newest" not in ran.out
    assert opusctl("history", "5", "-q").out == "5\n"
    daemon.answers["job.history"]["truncated"] = True
    assert "only the newest of its events" in opusctl("history", "5").out


def test_events_prints_what_is_kept_and_ends(opusctl, daemon):
    daemon.answers |= {
        "events.subscribe": lambda params: {"subscription": 1, "cursor": params.get("since", 2)},
        "events.unsubscribe": {},
    }
    events = [an_event(), an_event("job.started", cursor=2)]
    notes = [{"method": "event", "params": {"subscription": 2, "event": event}} for event in events]
    original = daemon.answers["events.subscribe"]

    def subscribe(params):
        if "since" in params:
            daemon.notify_after["events.subscribe"] = notes
        return original(params)

    daemon.answers["events.subscribe"] = subscribe
    ran = opusctl("events", "--kind", "failed,daemon.started", "--job", "5")
    assert ran.code == 0
    assert [line.split()[:3] for line in ran.out.splitlines()] == [
        ["1", NOW, "job.submitted"],
        ["2", NOW, "job.started"],
    ]
    assert daemon.sent("events.subscribe")[1] == {"since": 0, "kinds": ["job.failed", "daemon.started"], "jobs": [5]}


def test_a_job_that_a_worker_holds_shows_which_one(opusctl, daemon, job):
    daemon.answers |= {
        "job.get": job(5, "running", agent="pull", worker="gpu-1"),
        "job.history": {"events": [], "attempts": [], "chain": [5]},
    }
    assert re.search(r"worker +gpu-1\n", opusctl("show", "5").out)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_job_that_is_shown_in_part_says_so_beside_the_data(words, opusctl, daemon, job):
    daemon.answers["job.get"] = job(5, prompt="fix…", shortened=True)
    ran = opusctl("show", "5", *words)
    assert (ran.code, "longer than a reply may be" in ran.out) == (0, False)
    assert "longer than a reply may be" in ran.err
