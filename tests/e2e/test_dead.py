"""Dead letters of a real daemon: many are run again or removed at once, each with its line in the audit trail."""

import subprocess
import sys


def opusctl(house, *words):
    argv = [sys.executable, "-m", "opusctl", "--socket", str(house.socket), *words]
    return subprocess.run(argv, env=house.env, capture_output=True, text=True, check=False, timeout=30)


def test_many_are_retried_and_pruned_and_the_audit_trail_names_who_did_it(house):
    flag = house.work / "flag"
    bad = [house.sh(f"test -e {flag}") for _ in range(30)]
    house.ended(*bad)
    assert len(opusctl(house, "dead", "-q", "-n", "99").stdout.split()) == 30
    flag.touch()
    ids = [str(job["id"]) for job in bad[:10]]
    assert opusctl(house, "dead", "prune", *ids).stdout == "10 dead letters are pruned\n"
    assert opusctl(house, "dead", "retry", "--all", "--yes").stdout == "20 dead letters are run again\n"
    assert {job["status"] for job in house.ended(*bad[10:])} == {"completed"}
    trail = house("job.history", id=bad[10]["id"])["events"]
    assert [event["actor"] for event in trail if (event["detail"] or {}).get("retry")] == ["user:0"]
    pruned = house("job.history", id=bad[0]["id"])["events"]
    assert pruned[-1]["kind"] == "job.pruned"
    assert pruned[-1]["actor"] == "user:0"
