from __future__ import annotations

import pytest


@pytest.fixture
def graveyard(daemon, job):
    """450 dead letters in pages, of two agents and classes."""
    jobs = [
        job(n, "failed", agent="claude" if n % 2 else "codex", error={"class": "auth" if n % 3 else "timeout"})
        for n in range(450, 0, -1)
    ]

    def listed(params):
        assert params["dead"] is True
        assert params["order"] == "-completed_at"
        matching = [one for one in jobs if params.get("agent") in (None, one["agent"])]
        at = int(params.get("cursor", 0))
        page = matching[at : at + 100]
        return {"jobs": page, "next_cursor": str(at + 100) if at + 100 < len(matching) else None}

    daemon.answers |= {
        "job.list": listed,
        "job.retry": lambda params: {"jobs": [job(number, "queued") for number in numbers(params["ids"])]},
        "job.prune": lambda params: {"jobs": params["ids"]},
    }
    return daemon


def numbers(refs):
    return [7 if ref == "key-7" else ref for ref in refs]


def acted(daemon, method):
    return [number for params in daemon.sent(method) for number in params["ids"]]


def test_they_are_listed_by_class_too(opusctl, graveyard):
    document = opusctl("dead", "--class", "timeout", "--agent", "claude", "--json").json
    assert document["total"] == 75
    assert document["counts"] == [{"agent": "claude", "class": "timeout", "jobs": 75}]


def test_since_is_a_time_of_the_failure(opusctl, graveyard):
    opusctl("dead", "--since", "2024-01-02T03:04:05Z")
    [sent] = graveyard.sent("job.list")[:1]
    assert (sent["since"], sent["time"]) == ("2024-01-02T03:04:05.000000Z", "completed")


@pytest.mark.parametrize(
    ("verb", "method", "said"), [("retry", "job.retry", "run again"), ("prune", "job.prune", "pruned")]
)
def test_all_that_match_in_pieces_that_one_call_takes(verb, method, said, opusctl, graveyard):
    ran = opusctl("dead", verb, "--all", "--class", "auth", "--yes")
    assert (ran.code, ran.out) == (0, f"300 dead letters are {said}\n")
    assert [len(params["ids"]) for params in graveyard.sent(method)] == [200, 100]
    assert sorted(acted(graveyard, method)) == [n for n in range(1, 451) if n % 3]


def test_named_ones_alone_and_fresh(opusctl, graveyard):
    ran = opusctl("dead", "retry", "5", "key-7", "--fresh", "-q")
    assert ran.code == 0
    assert graveyard.sent("job.retry") == [{"ids": [5, "key-7"], "fresh": True}]
    assert not graveyard.sent("job.list")


def test_a_dry_run_says_which_and_does_nothing(opusctl, graveyard):
    ran = opusctl("dead", "prune", "--all", "--agent", "codex", "--dry-run")
    assert ran.out == "225 dead letters would be pruned\n"
    assert len(opusctl("dead", "prune", "--all", "--dry-run", "-q").out.split()) == 450
    assert not graveyard.sent("job.prune")


def test_one_that_is_refused_keeps_no_other_from_it(opusctl, graveyard, job, refusal):
    def retry(params):
        if 7 in params["ids"]:
            raise refusal(-32002, "conflict", "job 7 was pruned")
        return {"jobs": [job(number, "queued") for number in params["ids"]]}

    graveyard.answers["job.retry"] = retry
    ran = opusctl("dead", "retry", "6", "7", "8")
    assert (ran.code, ran.out) == (1, "2 dead letters are run again\n")
    assert "job 7 was pruned" in ran.err
    document = opusctl("dead", "retry", "6", "7", "8", "--json").json
    assert (document["jobs"], document["refused"][0]["id"]) == ([6, 8], 7)


@pytest.mark.parametrize(
    "words",
    [
        ["retry"], ["prune"], ["retry", "5", "--all"], ["5"], ["--all"], ["--fresh"], ["bury", "5"],
        ["retry", "--all"],  # nobody is there to confirm it
    ],
)  # fmt: skip
def test_what_is_to_be_done_must_be_said(words, opusctl, graveyard):
    assert opusctl("dead", *words).code == 2
    assert not graveyard.sent("job.retry")
    assert not graveyard.sent("job.prune")
