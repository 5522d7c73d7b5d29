"""argv -> config -> daemon.run(): the command `opusd`, and the only place that installs uvloop and logging."""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from opusd import __version__, log
from opusd.clock import SystemClock
from opusd.config import Config, ConfigError, load
from opusd.core.errors import OpusError
from opusd.daemon import Daemon, Settings
from opusd.lockfile import AlreadyRunning, LockFile
from opusd.notify import Supervisor
from opusd.rpc.place import PlaceRefused
from opusd.store.base import OutcomeUnknown, StoreError
from opusd.threads import HAND_OVER, lacks_room
from opusd.wiring import check_agents

if TYPE_CHECKING:
    from collections.abc import Sequence

_NO_ROOM = 71
_IO_ERROR = 74
_CONFIG_ERROR = 78


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0; 1 for a fault; 2 usage; 71, 74, 75, 78 as sysexits.h has them."""
    arguments = _parser().parse_args(argv)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # each connection and each attempt takes descriptors; agents get the usual limit back
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    faulthandler.enable()  # the watchdog's SIGABRT shows where the loop hung
    umask = os.umask(0o077)  # for what is ours; agents get the user's back
    supervisor = Supervisor.take()
    path = Path(arguments.config).absolute() if arguments.config else _xdg("XDG_CONFIG_HOME", ".config") / "config.toml"
    state_dir = Path(arguments.state_dir).absolute() if arguments.state_dir else _xdg("XDG_STATE_HOME", ".local/state")

    def read() -> Config:
        return load(path, must_exist=bool(arguments.config))

    try:
        config = read()
        check_agents(config)
    except ConfigError as error:
        return _refuse(str(error), _CONFIG_ERROR)

    def logs(config: Config) -> frozenset[str]:
        level = arguments.log_level or config.log.level
        log.configure(level=level, form=arguments.log_format or config.log.format, now=SystemClock().now)
        return log.written(level)

    if arguments.check:
        what = f"{path}: ok" if path.exists() else f"{path} does not exist: the defaults hold"
        print(f"{what}; no job waits longer than {config.longest_wait_hours():.1f} h for others")
        return 0
    socket = _socket(arguments.socket, config)
    settings = Settings(state_dir=state_dir, socket=socket, load=read, umask=umask, logs=logs)
    return _run(settings, config, supervisor)


def _run(settings: Settings, config: Config, supervisor: Supervisor) -> int:
    try:
        settings.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.state_dir.chmod(0o700)
        lock = LockFile.acquire(settings.state_dir / "opusd.lock")
    except AlreadyRunning as error:
        return _refuse(f"{error}: stop it first, or use another --state-dir", AlreadyRunning.exit_code)
    except OSError as error:
        return _refuse(f"{settings.state_dir} can't be used: {error.strerror}", _CONFIG_ERROR)
    try:
        sys.setswitchinterval(HAND_OVER)
        uvloop.run(_daemon(settings, config, supervisor))
    except (StoreError, PlaceRefused) as error:
        return _refuse(error.message, _CONFIG_ERROR)
    except OutcomeUnknown as error:
        return _refuse(
            f"{error}: whether the last commit is kept is not known; submit again with the same key", _IO_ERROR
        )
    except OpusError as error:
        return _refuse(error.message, 1)
    except (OSError, RuntimeError) as error:
        if not lacks_room(error):
            raise
        return _refuse(
            f"the machine has no room for another thread or process ({error}): end some, or raise the limit"
            " (ulimit -u, TasksMax=), and start again",
            _NO_ROOM,
        )
    finally:
        lock.release()
    return 0


async def _daemon(settings: Settings, config: Config, supervisor: Supervisor) -> None:
    logger = log.logger()

    def say(event: str, *, level: str = "info", **fields: Any) -> None:
        getattr(logger, level)(event, **fields)

    await Daemon(settings, config, log=say, supervisor=supervisor).run()


def _socket(given: str | None, config: Config) -> Path:
    chosen = given or os.environ.get("OPUSD_SOCKET") or config.socket_path
    if chosen:
        return Path(chosen).absolute()
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return (Path(runtime) if runtime else Path.home() / ".local/state") / "opusd" / "opusd.sock"


def _xdg(variable: str, default: str) -> Path:
    base = os.environ.get(variable)
    return (Path(base) if base else Path.home() / default) / "opusd"


def _refuse(message: str, status: int) -> int:
    print(f"opusd: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="opusd",
        description="The daemon that runs your coding agents, in order, within limits. Stays in the foreground.",
    )
    parser.add_argument("--version", action="version", version=f"opusd {__version__}")
    parser.add_argument("--config", metavar="FILE", help="config.toml (default: $XDG_CONFIG_HOME/opusd/config.toml)")
    parser.add_argument("--state-dir", metavar="DIR", help="registry and output (default: $XDG_STATE_HOME/opusd)")
    parser.add_argument("--socket", metavar="PATH", help="where to listen (default: $XDG_RUNTIME_DIR/opusd/opusd.sock)")
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument("--log-format", choices=["text", "json"])
    parser.add_argument("--check", action="store_true", help="read the configuration, say whether it is good, and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
