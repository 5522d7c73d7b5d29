"""Worktrees of real repositories: made once, used again, and never removed while there is work in them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opusd.agents.worktree import Place, WorktreeError, Worktrees, slug
from opusd.core.retry import FailureClass

IDENTITY = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]


def git(at: Path, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=at, check=True, capture_output=True, text=True, env=env, timeout=60
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "src/main.py").write_text("print(1)\n")
    (folder / ".gitignore").write_text("built/\n")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


@pytest.fixture
def worktrees(tmp_path: Path) -> Worktrees:
    return Worktrees(tmp_path / "state/worktrees", os.environ)


def made(worktrees: Worktrees, cwd: Path, name: str = "7", title: str = "Fix it") -> Place:
    place = worktrees.plan(name, str(cwd), title)
    worktrees.make(name, str(cwd), place)
    return place


def commit(at: Path, name: str = "new.txt") -> str:
    (at / name).write_text(name)
    git(at, "add", name)
    git(at, "commit", "--quiet", "-m", name)
    return git(at, "rev-parse", "HEAD")


# --- making ---------------------------------------------------------------------------------------


def test_a_job_gets_a_branch_of_its_own_at_the_commit_of_its_cwd_and_the_users_tree_is_not_touched(
    repository: Path, worktrees: Worktrees
) -> None:
    (repository / "src/main.py").write_text("print(2)  # being written\n")
    place = made(worktrees, repository, title="Fix the build!")
    assert place == Place(workdir=str(worktrees.path("7")), branch="opus/7-fix-the-build")
    tree = Path(place.workdir)
    assert (tree / "src/main.py").read_text() == "print(1)\n"
    assert git(tree, "symbolic-ref", "--short", "HEAD") == place.branch
    assert git(tree, "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")
    assert git(repository, "status", "--porcelain") == "M src/main.py"
    assert git(repository, "symbolic-ref", "--short", "HEAD") == "main"
    assert not tree.is_relative_to(repository)


def test_in_a_subfolder_of_the_repository_the_workdir_is_that_of_the_worktree(
    repository: Path, worktrees: Worktrees
) -> None:
    assert made(worktrees, repository / "src").workdir == str(worktrees.path("7") / "src")
    (repository / "new/deep").mkdir(parents=True)  # git knows no empty folders
    place = made(worktrees, repository / "new/deep", "8")
    assert Path(place.workdir).is_dir()
    assert worktrees.look("8").state == "clean"


def test_a_worktree_of_a_worktree_begins_at_its_commit(repository: Path, worktrees: Worktrees) -> None:
    first = made(worktrees, repository)
    head = commit(Path(first.workdir))
    second = made(worktrees, Path(first.workdir), "8", "more")
    assert git(Path(second.workdir), "rev-parse", "HEAD") == head


def test_a_detached_head_will_do(repository: Path, worktrees: Worktrees) -> None:
    git(repository, "checkout", "--quiet", "--detach")
    assert git(Path(made(worktrees, repository).workdir), "rev-parse", "HEAD") == git(repository, "rev-parse", "HEAD")


def test_a_worktree_that_is_there_is_used_as_it_is(repository: Path, worktrees: Worktrees) -> None:
    place = made(worktrees, repository)
    (Path(place.workdir) / "half").write_text("done")
    commit(repository, "later.txt")
    worktrees.make("7", str(repository), place)
    assert (Path(place.workdir) / "half").read_text() == "done"
    assert not (Path(place.workdir) / "later.txt").exists()


def test_a_worktree_that_somebody_took_away_comes_back_with_the_commits_of_its_branch(
    repository: Path, worktrees: Worktrees
) -> None:
    place = made(worktrees, repository)
    head = commit(Path(place.workdir))
    subprocess.run(["rm", "-rf", place.workdir], check=True)
    worktrees.make("7", str(repository), place)
    assert git(Path(place.workdir), "rev-parse", "HEAD") == head


def test_a_branch_that_exists_is_not_taken_for_a_new_job(repository: Path, worktrees: Worktrees) -> None:
    git(repository, "branch", "opus/7-fix-it")
    assert worktrees.plan("7", str(repository), "fix it").branch == "opus/7-fix-it-2"
    git(repository, "branch", "opus/7-fix-it-2")
    assert worktrees.plan("7-2", str(repository), "fix it").branch == "opus/7-fix-it-3"


def test_a_folder_that_is_there_and_is_nobodys_worktree_is_left_alone(repository: Path, worktrees: Worktrees) -> None:
    place = worktrees.plan("7", str(repository), "x")
    worktrees.path("7").mkdir(parents=True)
    (worktrees.path("7") / "file").write_text("a person's")
    with pytest.raises(WorktreeError, match="move it away"):
        worktrees.plan("7", str(repository), "x")
    with pytest.raises(WorktreeError, match="move it away"):
        worktrees.make("7", str(repository), place)
    assert (worktrees.path("7") / "file").read_text() == "a person's"


@pytest.mark.parametrize(
    ("title", "word"),
    [
        ("Fix the build!", "fix-the-build"),
        ("Über-Größe: naïve", "uber-groe-naive"),
        ("..//--", ""),
        ("日本", ""),
        ("x" * 99, "x" * 40),
        ("a.lock", "a-lock"),
        ("@{-1}", "1"),
        ("a\n\x1b[31mb", "a-31mb"),
    ],
)
def test_a_title_becomes_a_word_that_a_branch_may_have(repository: Path, title: str, word: str) -> None:
    assert slug(title) == word
    git(repository, "check-ref-format", "--branch", f"opus/7-{word}".rstrip("-"))


# --- what can't be ----------------------------------------------------------------------------------


def refused(worktrees: Worktrees, cwd: Path) -> str:
    with pytest.raises(WorktreeError) as caught:
        worktrees.plan("7", str(cwd), "x")
    assert caught.value.failure is FailureClass.CONFIG
    return str(caught.value)


def test_what_is_no_repository_is_refused_in_words(tmp_path: Path, worktrees: Worktrees, repository: Path) -> None:
    (tmp_path / "plain").mkdir()
    assert "in no git repository" in refused(worktrees, tmp_path / "plain")
    assert "no folder" in refused(worktrees, tmp_path / "gone")
    assert "File name too long" in refused(worktrees, tmp_path / ("d" * 300))
    git(tmp_path, "init", "--quiet", "--bare", "bare")
    assert "bare" in refused(worktrees, tmp_path / "bare")
    assert "inside of .git" in refused(worktrees, repository / ".git")
    git(tmp_path, "init", "--quiet", "empty")
    assert "no commit yet" in refused(worktrees, tmp_path / "empty")


def test_without_git_it_says_so(tmp_path: Path, repository: Path) -> None:
    assert "not installed" in refused(Worktrees(tmp_path / "w", {"PATH": str(tmp_path)}), repository)


def test_what_git_can_not_do_now_is_tried_again(repository: Path, worktrees: Worktrees) -> None:
    place = worktrees.plan("7", str(repository), "x")
    git(repository, "branch", "opus")  # a branch where a folder of branches is wanted
    with pytest.raises(WorktreeError, match="opus") as caught:
        worktrees.make("7", str(repository), place)
    assert caught.value.failure is FailureClass.SPAWN


def test_hooks_do_not_run_and_variables_of_git_lead_nowhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = repository / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked\n")
    hook.chmod(0o755)
    misled = {**os.environ, "GIT_DIR": str(tmp_path / "other"), "GIT_WORK_TREE": str(tmp_path), "GIT_TRACE": "1"}
    place = made(Worktrees(tmp_path / "w", misled), repository)
    assert (Path(place.workdir) / "src/main.py").exists()
    assert not (tmp_path / "hooked").exists()


# --- at the same time, and after a crash ------------------------------------------------------------


def test_eight_jobs_of_one_repository_at_once_each_get_theirs(repository: Path, worktrees: Worktrees) -> None:
    begin = threading.Barrier(8)

    def one(number: int) -> Place:
        begin.wait(10)
        return made(worktrees, repository, str(number), "same title")

    with ThreadPoolExecutor(8) as threads:
        places = list(threads.map(one, range(1, 9)))
    assert {git(Path(place.workdir), "symbolic-ref", "--short", "HEAD") for place in places} == {
        f"opus/{number}-same-title" for number in range(1, 9)
    }
    assert len(git(repository, "worktree", "list").splitlines()) == 9


# A git in a PATH of its own that stops in the middle of a checkout: a filter says so, and waits.
SLOW = """
import os, sys
with open({said!r}, "w") as said: said.write(str(os.getpid()))
with open({gate!r}) as gate: gate.read()
sys.stdout.buffer.write(sys.stdin.buffer.read())
"""


class Slow:
    """A repository whose checkout waits at a gate, and says when it is there."""

    def __init__(self, repository: Path, tmp_path: Path) -> None:
        self.said, self.gate = tmp_path / "said", tmp_path / "gate"
        os.mkfifo(self.said)
        os.mkfifo(self.gate)
        script = tmp_path / "smudge.py"
        script.write_text(SLOW.format(said=str(self.said), gate=str(self.gate)))
        (repository / ".gitattributes").write_text("z.slow filter=slow\n")
        (repository / "z.slow").write_text("content")
        git(repository, "add", ".")
        git(repository, "commit", "--quiet", "-m", "slow")
        git(repository, "config", "filter.slow.smudge", f"{sys.executable} -I -S {script}")
        git(repository, "config", "filter.slow.clean", "cat")
        git(repository, "config", "filter.slow.required", "true")

    def reached(self) -> int:
        """Once a checkout waits: the pid of the filter."""
        return int(self.said.read_text())

    def open(self) -> None:
        self.gate.write_text("")


MAKE = """
import os, sys
from pathlib import Path
from opusd.agents.worktree import Worktrees
worktrees = Worktrees(Path(sys.argv[1]), os.environ)
worktrees.make("7", sys.argv[2], worktrees.plan("7", sys.argv[2], "x"))
"""


def maker(worktrees: Worktrees, repository: Path) -> subprocess.Popen[bytes]:
    """Another daemon."""
    argv = [sys.executable, "-c", MAKE, str(worktrees.path("")), str(repository)]
    return subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])})


def test_a_worktree_that_was_half_made_when_all_was_killed_is_made_anew(
    repository: Path, worktrees: Worktrees, tmp_path: Path
) -> None:
    slow = Slow(repository, tmp_path)
    place = worktrees.plan("7", str(repository), "x")
    other = maker(worktrees, repository)
    os.killpg(os.getpgid(slow.reached()), signal.SIGKILL)
    other.kill()
    other.wait()
    git(repository, "config", "filter.slow.smudge", "cat")
    assert not (worktrees.path("7") / "z.slow").exists()
    worktrees.make("7", str(repository), place)
    assert (Path(place.workdir) / "z.slow").read_text() == "content"
    assert worktrees.look("7").state == "clean"
    assert git(Path(place.workdir), "symbolic-ref", "--short", "HEAD") == place.branch


def test_a_git_that_outlives_its_daemon_is_waited_for_and_its_worktree_is_used(
    repository: Path, worktrees: Worktrees, tmp_path: Path
) -> None:
    slow = Slow(repository, tmp_path)
    place = worktrees.plan("7", str(repository), "x")
    other = maker(worktrees, repository)
    slow.reached()
    other.kill()
    other.wait()
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(worktrees.make, "7", str(repository), place)
        slow.open()
        making.result(30)
    assert (Path(place.workdir) / "z.slow").read_text() == "content"
    assert len(git(repository, "worktree", "list").splitlines()) == 2


def test_closing_ends_a_git_that_is_at_work_and_says_nothing_of_the_job(
    repository: Path, worktrees: Worktrees, tmp_path: Path
) -> None:
    slow = Slow(repository, tmp_path)
    place = worktrees.plan("7", str(repository), "x")
    with ThreadPoolExecutor(1) as threads:
        making = threads.submit(worktrees.make, "7", str(repository), place)
        slow.reached()
        worktrees.close()
        with pytest.raises(WorktreeError, match="stopping") as caught:
            making.result(30)
    assert caught.value.failure is None


# --- looking and removing -----------------------------------------------------------------------------


def test_a_clean_worktree_and_its_branch_go(repository: Path, worktrees: Worktrees) -> None:
    place = made(worktrees, repository)
    assert worktrees.names() == ["7"]
    assert worktrees.remove("7").state == "clean"
    assert not worktrees.path("7").exists()
    assert place.branch not in git(repository, "branch", "--list", "opus/*")
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert worktrees.names() == []


def test_what_git_ignores_is_no_work(repository: Path, worktrees: Worktrees) -> None:
    tree = Path(made(worktrees, repository).workdir)
    (tree / "built").mkdir()
    (tree / "built/out").write_text("x")
    assert worktrees.remove("7").state == "clean"
    assert not tree.exists()


@pytest.mark.parametrize("change", ["edited", "new", "staged", "deleted"])
def test_a_worktree_with_changes_stays(repository: Path, worktrees: Worktrees, change: str) -> None:
    tree = Path(made(worktrees, repository).workdir)
    git(repository, "config", "status.showUntrackedFiles", "no")  # what people have set does not hide work
    if change == "edited":
        (tree / "src/main.py").write_text("work")
    elif change == "deleted":
        (tree / "src/main.py").unlink()
    else:
        (tree / "work").write_text("work")
    if change == "staged":
        git(tree, "add", ".")
    left = worktrees.remove("7")
    assert (left.state, left.changes) == ("dirty", 1)
    assert left.words == "1 changed or new files"
    assert tree.is_dir()


def test_a_worktree_with_commits_of_its_own_stays_until_another_branch_has_them(
    repository: Path, worktrees: Worktrees
) -> None:
    place = made(worktrees, repository)
    commit(Path(place.workdir))
    left = worktrees.remove("7")
    assert (left.state, left.ahead) == ("ahead", 1)
    assert "1 commits that no other branch has" in left.words
    git(repository, "merge", "--quiet", "--ff-only", place.branch)
    assert worktrees.remove("7").state == "clean"
    assert (repository / "new.txt").exists()
    assert git(repository, "branch", "--list", "opus/*") == ""


def test_commits_on_no_branch_at_all_are_kept_too(repository: Path, worktrees: Worktrees) -> None:
    tree = Path(made(worktrees, repository).workdir)
    git(tree, "checkout", "--quiet", "--detach")
    commit(tree)
    assert worktrees.remove("7").state == "ahead"
    assert tree.is_dir()


def test_a_branch_that_the_agent_made_is_not_ours_to_delete(repository: Path, worktrees: Worktrees) -> None:
    tree = Path(made(worktrees, repository).workdir)
    git(tree, "checkout", "--quiet", "-b", "feature")
    head = commit(tree)
    assert worktrees.remove("7").state == "clean"  # its commit is on a branch of its own
    assert git(repository, "rev-parse", "feature") == head


def test_what_is_no_worktree_any_more_is_unknown_and_stays(repository: Path, worktrees: Worktrees) -> None:
    tree = Path(made(worktrees, repository).workdir)
    (tree / ".git").unlink()
    left = worktrees.remove("7")
    assert left.state == "unknown"
    assert left.words
    assert tree.is_dir()
    place = made(worktrees, repository, "8")
    subprocess.run(["rm", "-rf", str(repository)], check=True)
    assert worktrees.remove("8").state == "unknown"
    assert Path(place.workdir).is_dir()
