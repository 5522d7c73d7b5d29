"""under_manager.py SCENARIO FOLDER: test_units.py runs it beside a user manager. Exit 0: the units kept their word.

Waits only for what happens: a unit's start (systemctl returns), a process's end (its pidfd), a reply, a line in a pipe.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RUNTIME = Path(os.environ["XDG_RUNTIME_DIR"])
SOCKET = RUNTIME / "opusd/opusd.sock"
BOUND = 45

DROP_IN = """
[Service]
ExecStart=
ExecStart={python} -m opusd
Environment=PYTHONPATH={root}:{root}/clients XDG_STATE_HOME={folder}/state XDG_CONFIG_HOME={folder}/config
StandardOutput=append:{folder}/opusd.log
StandardError=append:{folder}/opusd.log
WatchdogSec=2
"""


def systemctl(*arguments: str) -> str:
    done = subprocess.run(
        ["systemctl", "--user", *arguments], capture_output=True, text=True, timeout=BOUND, check=False
    )
    assert done.returncode == 0, f"systemctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def shown(name: str, unit: str = "opusd.service") -> str:
    return systemctl("show", "--value", "-p", name, unit)


def install(folder: Path) -> None:
    units = RUNTIME / "systemd/user"
    (units / "opusd.service.d").mkdir(parents=True)
    for unit in ("opusd.service", "opusd.socket"):
        shutil.copy(ROOT / "systemd" / unit, units)
    drop_in = DROP_IN.format(python=sys.executable, root=ROOT, folder=folder)
    (units / "opusd.service.d/test.conf").write_text(drop_in)
    systemctl("daemon-reload")


def call(method: str, **params: Any) -> Any:
    """The result of one call, on a connection of its own; it waits at the socket unit while the daemon restarts."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(BOUND)
        connection.connect(str(SOCKET))
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as replies:
            reply = json.loads(replies.readline())
    assert "result" in reply, reply
    return reply["result"]


class Agent:
    """A job that says its pid and its environment through a pipe, and then runs until it is cancelled."""

    def __init__(self, folder: Path) -> None:
        pipe = folder / "said"
        os.mkfifo(pipe)
        said = pipe.as_posix()
        script = f'{{ echo "$$"; env -0; }} > {said}; exec sleep 600'
        spec = {"command": ["sh", "-c", script], "cwd": folder.as_posix()}
        self.job = call("job.submit", **spec)["job"]["id"]
        self.pid, _, self.environment = pipe.read_text().partition("\n")

    def lives_on(self) -> None:
        assert Path(f"/proc/{self.pid}/comm").read_text().strip() == "sleep"
        job = call("job.get", id=self.job)
        assert (job["status"], job["attempts"]) == ("running", 1), job

    def is_ended(self) -> None:
        ended = os.pidfd_open(int(self.pid))
        call("job.cancel", id=self.job)
        assert select.select([ended], [], [], BOUND)[0], "cancel did not end the agent"
        os.close(ended)


def ended_by(act: Callable[[int], None]) -> None:
    """The daemon's process has ended after `act` was done to it."""
    pid = int(shown("MainPID"))
    watched = os.pidfd_open(pid)
    act(pid)
    assert select.select([watched], [], [], BOUND)[0], "the daemon did not end"
    os.close(watched)


def start(folder: Path) -> None:
    """Ready when it says so; reads its configuration again; stops with 0 and leaves its agents running."""
    systemctl("start", "opusd.service")
    assert shown("ActiveState") == "active"
    call("system.ping")
    assert SOCKET.stat().st_mode & 0o777 == 0o600
    assert SOCKET.parent.stat().st_mode & 0o777 == 0o700
    agent = Agent(folder)
    for variable in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        assert f"{variable}=" not in agent.environment, variable
    systemctl("reload", "opusd.service")
    call("system.ping")
    systemctl("stop", "opusd.service")
    assert (shown("Result"), shown("ExecMainStatus"), shown("NRestarts")) == ("success", "0", "0")
    assert Path(f"/proc/{agent.pid}").exists()
    systemctl("start", "opusd.service")
    agent.lives_on()
    agent.is_ended()


def hang(folder: Path) -> None:
    """An event loop that does not turn is ended by the watchdog, and the next daemon adopts what runs."""
    systemctl("start", "opusd.socket", "opusd.service")
    agent = Agent(folder)
    ended_by(lambda pid: os.kill(pid, signal.SIGSTOP))
    agent.lives_on()
    assert shown("NRestarts") == "1"
    agent.is_ended()


def kill(folder: Path) -> None:
    """A daemon that is killed comes back; its agents never noticed."""
    systemctl("start", "opusd.socket", "opusd.service")
    agent = Agent(folder)
    ended_by(lambda pid: os.kill(pid, signal.SIGKILL))
    agent.lives_on()
    assert shown("NRestarts") == "1"
    agent.is_ended()


def activate(folder: Path) -> None:
    """The first call starts the daemon; the socket outlives it, and starts it again."""
    systemctl("start", "opusd.socket")
    assert shown("ActiveState") == "inactive"
    assert SOCKET.stat().st_mode & 0o777 == 0o600
    call("system.ping")
    assert shown("ActiveState") == "active"
    agent = Agent(folder)
    systemctl("stop", "opusd.service")
    assert SOCKET.exists(), "the daemon removed a socket that is not its own"
    agent.lives_on()
    agent.is_ended()


LIMITED = """
[agents.exec]
memory_max = "64MiB"
verify = ["sh", "-c", "grep '^0::' /proc/self/cgroup; ulimit -d"]
"""
GREEDY = "x = bytearray(1); exec('while True: x += x')"


def limit(folder: Path) -> None:
    """An attempt with a memory limit is in a scope of its own that bears its name; so is what verifies it."""
    (folder / "config/opusd").mkdir(parents=True)
    (folder / "config/opusd/config.toml").write_text(LIMITED)
    (folder / "config/opusd/config.toml").chmod(0o600)
    systemctl("start", "opusd.socket", "opusd.service")
    show = ["sh", "-c", "grep '^0::' /proc/self/cgroup; ulimit -d; nice"]
    job = call("job.submit", command=show, cwd=folder.as_posix())["job"]["id"]
    [done] = call("job.wait", ids=[job], timeout=BOUND)["jobs"]
    assert done["status"] == "completed", done["error"]
    said = call("job.logs", id=job)
    lines = (said["data"] + call("job.logs", id=job, offset=said["next_offset"])["data"]).splitlines()
    first, second = [line for line in lines if line.startswith("0::")]
    assert first.endswith(f"-opus-{job}-1.scope"), first
    assert second.endswith(f"-opus-{job}-1.scope"), second
    assert first != second
    assert lines.count("unlimited") == 2, lines  # the scope limits them together, not each by itself
    agent = Agent(folder)
    scope = Path(f"/proc/{agent.pid}/cgroup").read_text().strip().rpartition("/")[2]
    assert shown("MemoryMax", scope) == str(64 << 20)
    group = Path("/sys/fs/cgroup") / shown("ControlGroup", scope).lstrip("/")
    enforced = (group / "memory.events").exists()
    agent.is_ended()
    if enforced:
        greedy = call("job.submit", command=[sys.executable, "-c", GREEDY], cwd=folder.as_posix())["job"]["id"]
        [killed] = call("job.wait", ids=[greedy], timeout=BOUND)["jobs"]
        assert killed["error"]["class"] == "oom", killed["error"]


if __name__ == "__main__":
    scenario, scratch = sys.argv[1], Path(sys.argv[2])
    signal.alarm(100)
    install(scratch)
    {"start": start, "hang": hang, "kill": kill, "activate": activate, "limit": limit}[scenario](scratch)
