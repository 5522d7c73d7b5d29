"""Jobs in worktrees of their own, with a real git: same place for all attempts, nobody's work lost."""

import os
import subprocess
from pathlib import Path

import pytest

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
