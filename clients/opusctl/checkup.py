"""What `doctor` can see without the daemon: the socket and its folder, the configuration, Python, the user manager."""

from __future__ import annotations

import os
import stat
import sys

from opusctl.wire import PATH_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OKAY, WARN, FAIL = "ok", "warn", "fail"
NETWORK = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs", "afs")


class Check:
    """One line of the report; `advice` says what to do when it is not ok."""

    def __init__(self, name: str, verdict: str, message: str, advice: str = "") -> None:
        self.name = name
        self.verdict = verdict
        self.message = message
        self.advice = advice

    def as_object(self) -> dict[str, Any]:
        return {"name": self.name, "verdict": self.verdict, "message": self.message, "advice": self.advice}


def local_checks(socket_path: str) -> list[Check]:
    return [_python(), *_socket(socket_path), _config_file(), *_state(), *_user_manager()]


def _python() -> Check:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Check("python", OKAY if sys.version_info >= (3, 11) else FAIL, version, "opusd needs 3.11 or later")


def _socket(path: str) -> list[Check]:
    """It must be a socket, ours, closed to others, in a folder that is closed too."""
    if len(os.fsencode(path)) > PATH_LIMIT:
        return [
            Check("socket", FAIL, f"the path is over {PATH_LIMIT} bytes: {path}", "choose a shorter one: $OPUSD_SOCKET")
        ]
    try:
        found = os.lstat(path)
    except OSError as error:
        return [Check("socket", WARN, f"{path}: {error.strerror}", "the daemon makes it when it starts")]
    checks = []
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISSOCK(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no socket"
        checks.append(Check("socket", FAIL, f"{path} is {kind}", "remove it; the daemon makes its own"))
    elif found.st_uid != os.getuid() and os.getuid() != 0:
        checks.append(Check("socket", FAIL, f"{path} is another user's", "choose your own: --socket or $OPUSD_SOCKET"))
    elif mode & 0o077:
        checks.append(Check("socket", FAIL, f"{path} has mode {mode:04o}", f"chmod 600 {path}"))
    else:
        checks.append(Check("socket", OKAY, f"{path}, mode {mode:04o}"))
    folder = os.path.dirname(path) or "."
    mode = stat.S_IMODE(os.stat(folder).st_mode)
    closed = not mode & 0o077
    checks.append(Check("folder", OKAY if closed else WARN, f"{folder}, mode {mode:04o}", f"chmod 700 {folder}"))
    return checks


def _config_file() -> Check:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    path = f"{home}/opusd/config.toml"
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return Check("config", OKAY, f"no {path}: the defaults")
    except OSError as error:
        return Check("config", FAIL, f"{path}: {error.strerror}", "make it readable for you")
    if found.st_mode & 0o022 or found.st_uid not in (os.getuid(), 0):
        return Check("config", FAIL, f"others can write {path}, which names programs to run", f"chmod go-w {path}")
    return Check("config", OKAY, path)


def _state() -> list[Check]:
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    path = f"{home}/opusd"
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return []  # the daemon makes it, or was given another one
    kind = _file_system(os.path.realpath(path))
    if kind in NETWORK:
        return [Check("state", FAIL, f"{path} is on {kind}", "the registry needs a local disk: opusd --state-dir")]
    closed = not mode & 0o077
    return [Check("state", OKAY if closed else WARN, f"{path}, mode {mode:04o}", f"chmod 700 {path}")]


def _file_system(path: str) -> str:
    """The type of the file system that holds the path, or nothing."""
    best, kind = "", ""
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                _, place, of_kind, *_ = line.split(" ")
                inside = path == place or path.startswith(place.rstrip("/") + "/")
                if inside and len(place) >= len(best):
                    best, kind = place, of_kind
    except (OSError, ValueError):
        return ""
    return kind


def _user_manager() -> list[Check]:
    """Is there a systemd of this user, and does it stay when the user logs out?"""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime or not os.path.exists(f"{runtime}/systemd/private"):
        advice = "run opusd by hand; memory_max of agents needs a user manager"
        return [Check("systemd", WARN, "no user manager here", advice)]
    import pwd

    user = pwd.getpwuid(os.getuid()).pw_name
    lingers = os.path.exists(f"/var/lib/systemd/linger/{user}")
    message = "user manager, stays after logout" if lingers else "user manager, ends with your last session"
    return [Check("systemd", OKAY if lingers else WARN, message, f"loginctl enable-linger {user}")]
