"""Git worktrees: one a job, made beside the state of the daemon from the commit that a folder's repository is at.

All of this blocks, so it is called in a thread. No hook runs, nothing asks on a terminal, no variable of git is passed
on. What holds work that is nowhere else (a change, a commit that no other branch has) is never removed, and what
is not a worktree that was made here is not touched. Must not know the registry: which jobs there are is the caller's.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import threading
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from opusd.core.retry import FailureClass

_ASK_SECONDS: Final = 60.0
_CHECKOUT_SECONDS: Final = 900.0
_LOCK_LOOK_SECONDS: Final = 0.02
_SLUG: Final = 40
_WORDS: Final = 400
_HALF_MADE: Final = "initializing"
"""Git locks a worktree with this reason until its files are there."""
_NAME: Final = re.compile(r"[1-9]\d{0,11}(-[1-9]\d{0,5})?", re.ASCII)


class WorktreeError(Exception):
    """There is no worktree, and why.

    `failure` is config when trying again would change nothing, else spawn; None when this says nothing of the job.
    """

    def __init__(self, message: str, failure: FailureClass | None = FailureClass.CONFIG) -> None:
        super().__init__(message)
        self.failure = failure


class Place(msgspec.Struct, frozen=True):
    """Where a job works: `workdir` is the worktree, or the folder in it that its cwd was below the repository."""

    workdir: str
    branch: str


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A worktree as it is. `changes` counts files that are changed or new, `ahead` commits that no other branch has.

    unknown: git could not say, `problem` is why; it is treated as if there were work in it.
    """

    name: str
    path: str
    state: Literal["clean", "dirty", "ahead", "unknown"]
    branch: str | None = None
    repository: str | None = None
    head: str | None = None
    changes: int = 0
    ahead: int = 0
    problem: str = ""
    made_at: int = 0  # microseconds

    @property
    def words(self) -> str:
        """Why it is kept; empty when nothing would be lost."""
        match self.state:
            case "clean":
                return ""
            case "unknown":
                return self.problem
            case _:
                changed = f"{self.changes} changed or new files" if self.changes else ""
                commits = f"{self.ahead} commits that no other branch has" if self.ahead else ""
                return " and ".join(word for word in (changed, commits) if word)


class _Repository(msgspec.Struct, frozen=True):
    common: str  # the folder .git that all its worktrees share
    prefix: str  # of the folder asked about, below the top; ends with a slash, or is empty


class Worktrees:
    """Those in one folder, by name: a job's id, and a number when it is not the job's first. `base` is the environment.

    `git` is looked for in the environment's PATH. One repository is changed by one of us at a time; git holds the
    lock too, so that one which outlives a killed daemon is waited for.
    """

    def __init__(self, root: Path, base: Mapping[str, str]) -> None:
        self._root = Path(os.path.realpath(root))  # as git gives it
        kept = {name: value for name, value in base.items() if not name.startswith(("GIT_", "SSH_ASKPASS"))}
        self._env = {**kept, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
        self._closing = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()

    def close(self) -> None:
        """End what runs: a daemon that stops does not wait for a long checkout, which is begun anew later."""
        self._closing.set()
        with self._guard:
            for process in self._running:
                _end(process, signal.SIGTERM)

    def path(self, name: str) -> Path:
        return self._root / name

    def names(self) -> list[str]:
        """Those that are there."""
        try:
            found = [entry.name for entry in os.scandir(self._root) if _NAME.fullmatch(entry.name)]
        except FileNotFoundError:
            return []
        return sorted(found, key=lambda name: [int(part) for part in name.split("-")])

    # --- making -----------------------------------------------------------------------------------

    def plan(self, name: str, cwd: str, title: str) -> Place:
        """Where a new worktree of the repository at `cwd` is to be; nothing is made yet."""
        repository = self._repository(cwd)
        if self.path(name).exists():
            raise WorktreeError(f"{self.path(name)} is there already, and was not made for this job: move it away")
        taken = set(self._ask(["--git-dir", repository.common, "for-each-ref", "--format=%(refname)", "refs/heads/"]))
        job, _, number = name.partition("-")
        stem = f"opus/{job}-{slug(title)}".rstrip("-")
        count = int(number or 1)
        while f"refs/heads/{(branch := stem if count == 1 else f'{stem}-{count}')}" in taken:
            count += 1
        return Place(workdir=str(self.path(name) / repository.prefix).rstrip("/"), branch=branch)

    def make(self, name: str, cwd: str, place: Place) -> None:
        """Make sure that a planned worktree is there; one that is, is used as it is."""
        path = self.path(name)
        if not self._is_whole(path):
            repository = self._repository(cwd)
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked(repository.common) as lock:
                self._make(path, repository.common, cwd, place.branch, lock)
        with suppress(FileExistsError):  # a folder that git does not know yet
            Path(place.workdir).mkdir(parents=True, exist_ok=True)

    def _make(self, path: Path, common: str, cwd: str, branch: str, lock: int) -> None:
        if self._is_whole(path):
            return  # made while we waited for the lock, by a git that outlived its daemon
        locks = self._listed(common)
        force: list[str] = []
        if str(path) in locks and (locks[str(path)] == _HALF_MADE or not path.exists()):
            # Killed before an agent was ever in it; or taken away by somebody, and still on git's list.
            force = ["--force", "--force"]
            self._git(["--git-dir", common, "worktree", "remove", *force, str(path)], lock=lock, check=False)
        if path.exists() and any(path.iterdir()):
            raise WorktreeError(f"{path} is there, but is no worktree of {common} any more: move it away")
        ours = self._git(["--git-dir", common, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}"], check=False)
        what = [str(path), branch] if ours.returncode == 0 else ["-b", branch, str(path), "HEAD"]
        self._git(["-C", cwd, "worktree", "add", "--quiet", *force, *what], lock=lock, seconds=_CHECKOUT_SECONDS)

    def _is_whole(self, path: Path) -> bool:
        """Whether its files have been there before: then whatever became of them since is the job's work."""
        if not (path / ".git").is_file():
            return False
        folder = self._git(["-C", str(path), "rev-parse", "--absolute-git-dir"], check=False)
        if folder.returncode:
            raise WorktreeError(f"{path} is no worktree any more: {_words(folder.stderr)}; mend it, or retry anew")
        with suppress(OSError):
            return (Path(_text(folder.stdout)) / "locked").read_text("utf-8", "replace").strip() != _HALF_MADE
        return True

    def _repository(self, cwd: str) -> _Repository:
        """The repository that a folder is in; WorktreeError when no worktree can be made of it."""
        try:
            there = Path(cwd).is_dir()
        except OSError as error:
            raise WorktreeError(f"a worktree can't be made: {cwd}: {error.strerror}") from None
        if not there:
            raise WorktreeError(f"a worktree can't be made: {cwd} is no folder")
        asked = ["rev-parse", "--is-inside-work-tree", "--path-format=absolute", "--git-common-dir", "--show-prefix"]
        answer = self._git(["-C", cwd, *asked], check=False)
        if answer.returncode:
            words = _words(answer.stderr)
            if "not a git repository" in words:
                words = "it is in no git repository"
            raise WorktreeError(f"a worktree of {cwd} can't be made: {words}; leave worktree out (--no-worktree)")
        inside, common, prefix = (*_text(answer.stdout).split("\n"), "")[:3]
        if inside != "true":
            raise WorktreeError(f"a worktree of {cwd} can't be made: it is a bare repository, or inside of .git")
        if self._git(["-C", cwd, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"], check=False).returncode:
            raise WorktreeError(f"a worktree of {cwd} can't be made: its repository has no commit yet")
        return _Repository(common, prefix)

    def _listed(self, common: str) -> dict[str, str]:
        """The worktrees that a repository knows, each with the reason why it is locked, if it is."""
        listed: dict[str, str] = {}
        path = ""
        for line in self._ask(["--git-dir", common, "worktree", "list", "--porcelain"]):
            word, _, rest = line.partition(" ")
            if word == "worktree":
                path = rest
                listed[path] = ""
            elif word == "locked":
                listed[path] = rest
        return listed

    # --- looking and removing ---------------------------------------------------------------------

    def look(self, name: str) -> Tree:
        """What is in a worktree; never raises for what is wrong with it."""
        path = self.path(name)
        made_at = 0
        try:
            made_at = (path / ".git").stat().st_mtime_ns // 1000
            return self._look(name, path, made_at)
        except (WorktreeError, OSError, ValueError) as error:
            problem = str(error) if isinstance(error, WorktreeError) else f"it is no worktree any more: {error}"
            return Tree(name=name, path=str(path), state="unknown", problem=problem, made_at=made_at)

    def _look(self, name: str, path: Path, made_at: int) -> Tree:
        at = ["-C", str(path)]
        top, common, head = self._ask(
            [*at, "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-common-dir", "HEAD"]
        )
        if Path(top) != path.resolve():
            raise WorktreeError("it is no worktree any more")
        ref = _text(self._git([*at, "symbolic-ref", "--quiet", "HEAD"], check=False).stdout)
        branch = ref.removeprefix("refs/heads/") or None
        states = ["status", "--porcelain", "-z", "--untracked-files=normal", "--ignore-submodules=none", "--no-renames"]
        changes = len(self._ask([*at, *states], separator="\0"))
        others = [f"--exclude={branch}"] if branch is not None and ours(branch) else []
        [ahead] = self._ask([*at, "rev-list", "--count", "HEAD", "--not", *others, "--branches", "--remotes"])
        return Tree(
            name=name,
            path=str(path),
            state="dirty" if changes else "ahead" if int(ahead) else "clean",
            branch=branch,
            repository=str(Path(common).parent) if Path(common).name == ".git" else common,
            head=head,
            changes=changes,
            ahead=int(ahead),
            made_at=made_at,
        )

    def remove(self, name: str) -> Tree:
        """Remove a clean worktree, and its branch when that is ours; how it was. The others are left as they are."""
        path = self.path(name)
        if not path.is_symlink() and path.is_dir() and not any(path.iterdir()):
            path.rmdir()
            return Tree(name=name, path=str(path), state="clean")
        tree = self.look(name)
        if tree.state != "clean":
            return tree
        [common] = self._ask(["-C", str(path), "rev-parse", "--path-format=absolute", "--git-common-dir"])
        with self._locked(common) as lock:
            tree = self.look(name)
            if tree.state != "clean":
                return tree
            here = ["--git-dir", common]
            self._git([*here, "worktree", "remove", str(path)], lock=lock, seconds=_CHECKOUT_SECONDS)
            if tree.branch is not None and ours(tree.branch) and tree.head is not None:
                # Only while it is where it was: a commit that came in between keeps its branch.
                gone = [*here, "update-ref", "-d", f"refs/heads/{tree.branch}", tree.head]
                self._git(gone, lock=lock, check=False)
        return tree

    # --- git --------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, common: str) -> Iterator[int]:
        """One of us at a time changes a repository. The lock is of the open file, so a git that has it holds it too."""
        place = self._root / ".locks"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        digest = hashlib.sha256(os.fsencode(os.path.realpath(common))).hexdigest()[:16]
        lock = os.open(place / digest, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            waited = 0.0
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    waited += _LOCK_LOOK_SECONDS
                if self._closing.wait(_LOCK_LOOK_SECONDS) or waited > _CHECKOUT_SECONDS:
                    raise WorktreeError(f"another git is at work in {common}", None)
            yield lock
        finally:
            os.close(lock)

    def _ask(self, arguments: list[str], *, separator: str = "\n") -> list[str]:
        """The parts of what git prints."""
        text = self._git(arguments).stdout.decode("utf-8", "surrogateescape")
        return [part for part in text.split(separator) if part]

    def _git(
        self, arguments: list[str], *, lock: int | None = None, seconds: float = _ASK_SECONDS, check: bool = True
    ) -> subprocess.CompletedProcess[bytes]:
        program = shutil.which("git", path=self._env.get("PATH"))
        if program is None:
            raise WorktreeError("a worktree needs git, which is not installed, or not in the daemon's PATH")
        argv = [program, "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", *arguments]
        with self._started(argv, lock) as process:
            try:
                said, complaint = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise WorktreeError(
                    f"git {_verb(arguments)} took longer than {seconds:g} s", FailureClass.SPAWN
                ) from None
        if self._closing.is_set():
            raise WorktreeError("the daemon is stopping", None)
        if check and process.returncode:
            raise WorktreeError(f"git {_verb(arguments)}: {_words(complaint)}", FailureClass.SPAWN)
        return subprocess.CompletedProcess(argv, process.returncode, said, complaint)

    @contextmanager
    def _started(self, argv: list[str], lock: int | None) -> Iterator[subprocess.Popen[bytes]]:
        """A git that is ended when we are closed, or when its time is over."""
        with self._guard:
            if self._closing.is_set():
                raise WorktreeError("the daemon is stopping", None)
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd="/",
                start_new_session=True,  # no terminal to ask on
                pass_fds=() if lock is None else (lock,),
            )
            self._running.add(process)
        try:
            yield process
        finally:
            with self._guard:
                self._running.discard(process)
            _end(process, signal.SIGKILL)
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()  # what git had started may hold the other end
            process.wait()


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """A git and what it started, which would go on without it; nothing once it is over."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def slug(title: str) -> str:
    """What of a title can be read in a branch's name: `Fix the build!` is `fix-the-build`."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG].strip("-")


def ours(branch: str) -> bool:
    """Whether a branch has the name of one that was made for a job."""
    return re.match(r"opus/[1-9]\d*(-|$)", branch, re.ASCII) is not None


def _verb(arguments: list[str]) -> str:
    words = arguments[2:] if arguments[0].startswith("-") else arguments
    return " ".join(word for word in words[:2] if not word.startswith("-"))


def _text(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").removesuffix("\n")


def _words(complaint: bytes) -> str:
    """What git complained of, from where it says that this is why it ends."""
    text = complaint.decode("utf-8", "replace")
    words = " ".join(text[max(0, text.find("fatal: ")) :].removeprefix("fatal: ").split())
    return words[:_WORDS] or "it failed and did not say why"
