"""What is asked of cgroups; the rest of the kernel is asked by every test with a real process."""

from __future__ import annotations

from pathlib import Path

import pytest

from opusd.agents import machine
from opusd.agents.kernel import oom_kills
from opusd.rpc import callers

SCOPE = machine.scope_unit(7, 2, "0123456789abcdef")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A process 1 in a scope of its own, in which two were killed."""
    group = tmp_path / "cgroups/user.slice" / SCOPE
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 51\noom 3\noom_kill 2\noom_group_kill 0\n")
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/1/cgroup").write_text(f"1:name=systemd:/\n0::/user.slice/{SCOPE}\n")
    return tmp_path


def counted(place: Path) -> int:
    return oom_kills(1, SCOPE, str(place / "proc"), str(place / "cgroups"))


def test_the_killed_of_a_scope_are_counted(place: Path) -> None:
    assert counted(place) == 2


@pytest.mark.parametrize(
    "cgroup", ["0::/user.slice/other.scope\n", f"0::/user.slice/{SCOPE} (deleted)\n", "", "rubbish"]
)
def test_another_cgroup_or_one_that_has_gone_tells_nothing(place: Path, cgroup: str) -> None:
    (place / "proc/1/cgroup").write_text(cgroup)
    assert counted(place) == 0


@pytest.mark.parametrize("events", ["", "oom_kill\n", "oom_kill many\n"])
def test_events_that_can_not_be_read_tell_nothing(place: Path, events: str) -> None:
    (place / "cgroups/user.slice" / SCOPE / "memory.events").write_text(events)
    assert counted(place) == 0


@pytest.mark.parametrize("verify", [False, True])
def test_a_scope_bears_the_name_that_callers_are_known_by(verify: bool) -> None:
    unit = machine.scope_unit(7, 2, "0123456789abcdef", verify=verify)
    assert callers._SCOPE.findall(f"0::/user.slice/app.slice/{unit}\n") == [("7", "2")]
    assert unit != machine.scope_unit(7, 2, "fedcba9876543210", verify=verify)
