from __future__ import annotations

import pytest

MADE = "2025-11-24T08:00:00.000000Z"


def tree(job: int, state: str = "clean", **fields: object) -> dict[str, object]:
    return {
        "job": job, "status": "completed", "path": f"/state/worktrees/{job}", "branch": f"opus/{job}-fix",
        "repository": "/srv/app", "state": state, "changes": 0, "ahead": 0, "created_at": MADE, "kept": None,
    } | fields  # fmt: skip


FOUND = [
    tree(3),
    tree(4, "dirty", changes=2, ahead=1, kept="2 changed or new files and 1 commits that no other branch has"),
    tree(5, "unknown", status=None, branch=None, created_at=None, kept="it is no worktree any more"),
]


def test_worktrees_are_listed_with_what_is_in_them(opusctl, daemon):
    daemon.answers["worktree.list"] = {"worktrees": FOUND}
    ran = opusctl("worktrees")
    assert ran.code == 0
    rows = [line.split("  ") for line in ran.out.splitlines()]
    assert [[cell.strip() for cell in row if cell] for row in rows] == [
        ["JOB", "STATUS", "STATE", "AGE", "BRANCH", "PATH"],
        ["3", "completed", "clean", MADE, "opus/3-fix", "/state/worktrees/3"],
        ["4", "completed", "dirty 2, ahead 1", MADE, "opus/4-fix", "/state/worktrees/4"],
        ["5", "forgotten", "unknown", "-", "-", "/state/worktrees/5"],
    ]
    assert opusctl("worktrees", "-q").out == "3\n4\n5\n"
    assert opusctl("worktrees", "--json").json == {"worktrees": FOUND}
    opusctl("worktrees", "4", "my-key")
    assert daemon.sent("worktree.list")[-1] == {"ids": [4, "my-key"]}


def test_without_worktrees_it_says_so(opusctl, daemon):
    daemon.answers["worktree.list"] = {"worktrees": []}
    ran = opusctl("worktrees")
    assert (ran.code, ran.out, ran.err) == (0, "", "no worktrees\n")


def test_prune_says_what_went_and_why_the_rest_is_kept(opusctl, daemon):
    daemon.answers["worktree.prune"] = {"removed": FOUND[:1], "kept": FOUND[1:], "dry_run": False}
    ran = opusctl("worktrees", "prune")
    assert ran.out == "1 worktree was removed\n"
    assert f"kept /state/worktrees/4: {FOUND[1]['kept']}\n" in ran.err
    assert opusctl("worktrees", "prune", "-q").out == "3\n"
    assert opusctl("worktrees", "prune", "--json").json["removed"] == FOUND[:1]
    assert opusctl("worktrees", "prune", "--dry-run", "3").out == "1 worktree would be removed\n"
    assert daemon.sent("worktree.prune") == [{}, {}, {}, {"ids": [3], "dry_run": True}]


def test_a_dry_run_of_looking_is_a_mistake(opusctl):
    ran = opusctl("worktrees", "--dry-run")
    assert ran.code == 2
    assert "goes with prune" in ran.err


@pytest.mark.parametrize(("code", "word", "exit_code"), [(-32001, "not_found", 4), (-32005, "forbidden", 6)])
def test_a_refusal_is_told_by_its_code(opusctl, daemon, refusal, code, word, exit_code):
    def refuse(_params):
        raise refusal(code, word, "no")

    daemon.answers["worktree.prune"] = refuse
    assert opusctl("worktrees", "prune", "9").code == exit_code


def test_pruning_jobs_says_which_worktrees_are_left(opusctl, daemon):
    daemon.answers["job.prune"] = {"jobs": [4], "worktrees": FOUND[1:2], "dry_run": False}
    assert f"kept /state/worktrees/4: {FOUND[1]['kept']}" in opusctl("prune", "4").err


def test_show_names_the_branch_and_what_verify_said(opusctl, daemon, job):
    one = job(7, "failed", worktree=True, branch="opus/7-fix", workdir="/state/worktrees/7", verify=["make", "a b"])
    one |= {
        "verify_output": "2 failed",
        "error": {"class": "verify_failed", "message": "verify: make exited with code 2"},
    }
    daemon.answers["job.get"] = one
    daemon.answers["job.history"] = {"events": [], "attempts": [], "chain": [7]}
    out = opusctl("show", "7").out
    for words in ("opus/7-fix", "/state/worktrees/7", "make 'a b'", "2 failed", "verify: make exited with code 2"):
        assert words in out, words
