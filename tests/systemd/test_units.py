"""The real units under a real user manager: ready, reloaded, hanging, killed, activated by their socket.

$OPUSD_TEST_SYSTEMD names a program that runs its arguments beside a fresh `systemd --user` in namespaces of its own.
Without it only the units' text is verified: a developer's own manager is no playground.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = [ROOT / "systemd" / name for name in ("opusd.service", "opusd.socket")]
RUNNER = os.environ.get("OPUSD_TEST_SYSTEMD", "")
INHERITED = ("NoNewPrivileges", "SystemCall", "Private", "Protect", "Restrict", "Capability", "Limit", "StateDirectory")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    program = tmp_path / ".local/bin/opusd"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    said = subprocess.run(
        ["systemd-analyze", "--user", "verify", *map(str, UNITS)],
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (said.stdout, said.stderr, said.returncode) == ("", "", 0)


def test_the_unit_gives_the_agents_nothing_that_they_would_inherit() -> None:
    settings = [line for line in UNITS[0].read_text().splitlines() if line and not line.startswith(("#", "["))]
    assert [line for line in settings if line.startswith(INHERITED)] == []
    assert "KillMode=process" in settings
    assert "OOMPolicy=continue" in settings


@pytest.mark.systemd
@pytest.mark.slow
@pytest.mark.skipif(not RUNNER, reason="$OPUSD_TEST_SYSTEMD names no program that runs a user manager")
@pytest.mark.parametrize("scenario", ["start", "hang", "kill", "activate", "limit"])
def test_a_real_user_manager_runs_the_units(scenario: str, tmp_path: Path) -> None:
    said = subprocess.run(
        [RUNNER, sys.executable, str(Path(__file__).parent / "under_manager.py"), scenario, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    log = tmp_path / "opusd.log"
    assert said.returncode == 0, said.stdout + (log.read_text() if log.exists() else "(opusd wrote no log)")
