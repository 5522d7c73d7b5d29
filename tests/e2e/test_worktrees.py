"""Jobs in worktrees of their own, with a real git: same place for all attempts, nobody's work lost."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import PATIENCE

IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
COMMIT = "git -c user.name=t -c user.email=t@example.org -c commit.gpgsign=false commit --quiet -m work"


def git(at, *arguments):
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=at, check=True, capture_output=True, text=True, env=env, timeout=60
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "app"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "src/main.py").write_text("print(1)\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_a_job_works_on_a_branch_of_its_own_and_says_where(house, repository):
    job = house.sh(
        "pwd; git symbolic-ref --short HEAD; echo work > new.py",
        cwd=str(repository / "src"),
        worktree=True,
        title="Add a thing",
    )
    done = house.ended(job)
    place = house.state / "worktrees" / str(job["id"])
    assert done["status"] == "completed", done["error"]
    assert house.logs(job).split() == [str(place / "src"), f"opus/{job['id']}-add-a-thing"]
    assert (done["workdir"], done["branch"], done["worktree"]) == (str(place / "src"), "opus/1-add-a-thing", True)
    assert done["cwd"] == str(repository / "src")
    assert not (repository / "src/new.py").exists()
    assert git(repository, "status", "--porcelain") == ""


def test_a_retry_and_a_restart_go_on_in_the_same_worktree_and_a_fresh_start_has_another(house, repository):
    script = "cat been 2>/dev/null; echo x >> been; exit 1"
    job = house.sh(script, cwd=str(repository), worktree=True)
    first = house.ended(job)
    house.kill()
    house.start()
    house("job.retry", ids=[job["id"]])
    again = house.ended(job)
    assert (again["attempts"], again["workdir"], again["branch"]) == (2, first["workdir"], first["branch"])
    assert house.logs(job) == "x\n"
    house("job.retry", ids=[job["id"]], fresh=True)
    fresh = house.ended(job)
    assert house.logs(job) == ""
    assert fresh["workdir"] == first["workdir"] + "-2"
    assert fresh["branch"] == first["branch"] + "-2"
    assert (Path(first["workdir"]) / "been").read_text() == "x\nx\n"


@pytest.mark.parametrize("what", ["plain", "bare", "empty"])
def test_where_no_worktree_can_be_the_attempt_fails_with_class_config(commons, tmp_path, what):
    (tmp_path / "plain").mkdir()
    git(tmp_path, "init", "--quiet", "--bare", "bare")
    git(tmp_path, "init", "--quiet", "empty")
    job = commons.sh("true", cwd=str(tmp_path / what), worktree=True)
    failed = commons.ended(job)
    words = {"plain": "in no git repository", "bare": "bare repository", "empty": "no commit yet"}[what]
    assert (failed["status"], failed["error"]["class"]) == ("failed", "config")
    assert words in failed["error"]["message"]
    assert failed["workdir"] is None


def test_eight_jobs_of_one_repository_start_at_once(commons, repository):
    jobs = [commons.sh("git symbolic-ref --short HEAD", cwd=str(repository), worktree=True) for _ in range(8)]
    ended = commons.ended(*jobs)
    assert {job["status"] for job in ended} == {"completed"}
    assert len({commons.logs(job) for job in jobs}) == 8


def test_an_agents_default_is_its_jobs_unless_they_say_otherwise(build, repository):
    house = build("[agents.exec]\nworktree = true\n")
    inside = house.sh("pwd", cwd=str(repository))
    outside = house.sh("pwd", cwd=str(repository), worktree=False)
    assert inside["worktree"] is True
    house.ended(inside, outside)
    assert house.logs(inside).strip() == str(house.state / "worktrees" / str(inside["id"]))
    assert house.logs(outside).strip() == str(repository)


def test_an_agent_in_a_worktree_submits_inside_of_it_alone(build, repository):
    house = build('[agents.exec]\nmay_submit = ["exec"]\n')
    program = f"""
import os
from opus_client import Client, RpcError
with Client(os.environ["OPUSD_SOCKET"]) as client:
    job = client.call("job.submit", command=["pwd"])["job"]
    print(job["cwd"])
    try:
        client.call("job.submit", command=["pwd"], cwd={str(repository)!r})
    except RpcError as error:
        print(error.data["code"])
"""
    job = house.python(program, cwd=str(repository), worktree=True)
    assert house.ended(job)["status"] == "completed", house.logs(job)
    assert house.logs(job).split() == [house.get(job)["workdir"], "forbidden"]


def test_a_daemon_that_is_killed_while_a_worktree_is_made_makes_one_and_loses_none(house, repository, tmp_path):
    """A filter holds the checkout; git outlives the daemon, and the next one waits for it."""
    said, gate = tmp_path / "said", tmp_path / "gate"
    os.mkfifo(said)
    os.mkfifo(gate)
    git(repository, "config", "filter.slow.smudge", f"sh -c 'echo > {said}; read _ < {gate}; cat'")
    git(repository, "config", "filter.slow.clean", "cat")
    git(repository, "config", "filter.slow.required", "true")
    (repository / ".gitattributes").write_text("slow filter=slow\n")
    (repository / "slow").write_text("content\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "slow")
    job = house.sh("cat slow; git symbolic-ref --short HEAD", cwd=str(repository), worktree=True, title="x")
    said.read_text()
    house.kill()
    house.start()
    gate.write_text("\n")
    done = house.ended(job)
    assert done["status"] == "completed", done["error"]
    assert house.logs(job, attempt=done["attempts"]).split() == ["content", "opus/1-x"]
    assert len(git(repository, "worktree", "list").splitlines()) == 2
    assert git(repository, "branch", "--list", "--format=%(refname:short)", "opus/*") == "opus/1-x"


def test_a_daemon_that_stops_does_not_wait_for_a_checkout(house, repository, tmp_path):
    said = tmp_path / "said"
    os.mkfifo(said)
    git(repository, "config", "filter.slow.smudge", f"sh -c 'echo > {said}; exec sleep 60'")
    (repository / ".gitattributes").write_text("slow filter=slow\n")
    (repository / "slow").write_text("content\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "slow")
    house.noise = ("launch.failed",)
    job = house.sh("cat slow", cwd=str(repository), worktree=True)
    said.read_text()
    house.kill(15)
    git(repository, "config", "filter.slow.smudge", "cat")
    house.start()
    done = house.ended(job)
    assert (done["status"], done["retries"]) == ("completed", 0)


CHAIN = """
default_agent = "a"
[agents.a]
argv = ["sh", "-c", "pwd; echo of a > half; exit 1"]
retry = "none"
escalate_to = "b"
[agents.b]
argv = ["sh", "-c", "pwd; cat half; git symbolic-ref --short HEAD"]
"""


def test_the_agent_that_carries_on_goes_on_in_the_same_worktree(build, repository):
    house = build(CHAIN)
    first = house.submit(prompt="x", cwd=str(repository / "src"), worktree=True)
    house.ended(first)
    old = house.get(first)
    link = house.ended(old["escalated_to"])
    place = house.state / "worktrees" / str(first["id"])
    assert link["status"] == "completed", link["error"]
    assert house.logs(link).split() == [str(place / "src"), "of", "a", f"opus/{first['id']}-x"]
    assert (link["workdir"], link["branch"]) == (old["workdir"], old["branch"])
    assert [path.name for path in (house.state / "worktrees").iterdir() if path.name[0] != "."] == [str(first["id"])]


# --- which there are, and removing them ---------------------------------------------------------------


def test_worktrees_are_listed_and_only_those_without_work_of_finished_jobs_go(house, repository):
    gate = house.gate()
    cwd = str(repository)
    clean = house.sh("true", cwd=cwd, worktree=True, title="clean")
    dirty = house.sh("echo > new", cwd=cwd, worktree=True, title="dirty")
    ahead = house.sh(f"echo > new; git add new; {COMMIT}", cwd=cwd, worktree=True, title="ahead")
    house.ended(clean, dirty, ahead)
    running = house.sh(f"echo begun; {gate.wait}", cwd=cwd, worktree=True, title="running")
    house.output(running, "begun")
    listed = {one["job"]: one for one in house("worktree.list")["worktrees"]}
    assert [listed[job["id"]]["state"] for job in (clean, dirty, ahead, running)] == [
        "clean",
        "dirty",
        "ahead",
        "clean",
    ]
    assert [listed[job["id"]]["kept"] for job in (clean, dirty, ahead, running)] == [
        None,
        "1 changed or new files",
        "1 commits that no other branch has",
        f"job {running['id']} is running",
    ]
    one = listed[clean["id"]]
    assert (one["status"], one["repository"], one["branch"]) == ("completed", cwd, f"opus/{clean['id']}-clean")
    dry = house("worktree.prune", dry_run=True)
    assert [one["job"] for one in dry["removed"]] == [clean["id"]]
    assert Path(one["path"]).is_dir()
    pruned = house("worktree.prune")
    assert [one["job"] for one in pruned["removed"]] == [clean["id"]]
    assert {one["job"] for one in pruned["kept"]} == {dirty["id"], ahead["id"], running["id"]}
    assert not Path(one["path"]).exists()
    branches = git(repository, "branch", "--list", "--format=%(refname:short)", "opus/*").split()
    assert sorted(branches) == sorted(f"opus/{job['id']}-{job['title']}" for job in (dirty, ahead, running))
    gate.open()
    house.ended(running)
    git(repository, "merge", "--quiet", "--ff-only", f"opus/{ahead['id']}-ahead")
    again = house("worktree.prune", ids=[ahead["id"], running["id"]])
    assert {one["job"] for one in again["removed"]} == {ahead["id"], running["id"]}
    assert house.refused("worktree.prune", ids=[999]).data["code"] == "not_found"


def test_pruning_jobs_takes_clean_worktrees_along_and_says_which_are_left(house, repository):
    clean = house.sh("true", cwd=str(repository), worktree=True)
    dirty = house.sh("echo > new", cwd=str(repository), worktree=True)
    house.ended(clean, dirty)
    asked = house("job.prune", ids=[clean["id"], dirty["id"]], dry_run=True)
    assert [one["job"] for one in asked["worktrees"]] == [dirty["id"]]
    pruned = house("job.prune", ids=[clean["id"], dirty["id"]])
    assert [(one["job"], one["kept"]) for one in pruned["worktrees"]] == [(dirty["id"], "1 changed or new files")]
    assert [one["job"] for one in house("worktree.list")["worktrees"]] == [dirty["id"]]
    assert "worktree.kept" in house.said()


def test_a_worktree_that_was_cleaned_since_goes_at_the_next_start(house, repository):
    job = house.sh("echo > new", cwd=str(repository), worktree=True)
    place = Path(house.ended(job)["workdir"])
    house("job.prune", ids=[job["id"]])
    (place / "new").unlink()
    house.kill()
    house.start()
    end = time.monotonic() + PATIENCE
    while place.exists():  # no event tells of it
        assert time.monotonic() < end
        house("system.ping")


def test_an_agent_may_look_but_not_prune(house, repository):
    program = """
import os
from opus_client import Client, RpcError
with Client(os.environ["OPUSD_SOCKET"]) as client:
    print(len(client.call("worktree.list")["worktrees"]))
    try:
        client.call("worktree.prune")
    except RpcError as error:
        print(error.data["code"])
"""
    job = house.python(program, cwd=str(repository), worktree=True)
    house.ended(job)
    assert house.logs(job).split() == ["1", "forbidden"]
