from __future__ import annotations

from pathlib import Path

import pytest

from opusctl.commands.doctor import sqlite_words


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home that is in order."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    (tmp_path / "config" / "opusd").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def healthy(daemon, info, home):
    Path(daemon.path).chmod(0o600)
    daemon.answers["system.info"] = info(sqlite_version="3.40.1")
    return daemon


def verdicts(ran):
    return {check["name"]: check["verdict"] for check in ran.json["checks"]}


def test_a_healthy_daemon_passes(opusctl, healthy):
    ran = opusctl("doctor")
    assert ran.code == 0
    assert "fail" not in ran.out
    assert "3.40.1; has the WAL-reset bug of 3.7.0 to 3.51.2, which opusd avoids" in ran.out
    assert "pid 4711, up 2h" in ran.out


def test_without_a_daemon_the_rest_is_checked_and_it_exits_3(opusctl, home):
    ran = opusctl("doctor", "--socket", str(home / "none.sock"))
    assert ran.code == 3
    assert "systemctl --user start opusd" in ran.out
    assert "python" in ran.out


def test_a_socket_open_to_others_fails(opusctl, healthy):
    Path(healthy.path).chmod(0o666)
    ran = opusctl("doctor", "--json")
    assert ran.code == 1
    assert verdicts(ran)["socket"] == "fail"


def test_a_link_at_the_place_of_the_socket_fails(opusctl, healthy, home):
    (home / "link.sock").symlink_to(healthy.path)
    ran = opusctl("doctor", "--socket", str(home / "link.sock"), "--json")
    assert verdicts(ran)["socket"] == "fail"


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({"version": "9.9.9"}, "version", "warn"),
        ({"ready": False}, "daemon", "fail"),
        ({"degraded": ["the registry can't be written"]}, "degraded", "fail"),
        ({"degraded": ["no inotify: output is followed by polling"]}, "degraded", "warn"),
        ({"degraded": ["notification phone: HTTP 500; 1 wait, 0 were given up"]}, "degraded", "warn"),
        ({"degraded": ["no holes on this file system"]}, "degraded", "warn"),
        ({"free_disk": 10 << 20}, "disk", "fail"),
        ({"free_disk": 500 << 20}, "disk", "warn"),
        ({"wal_bytes": 1 << 30}, "registry", "warn"),
        ({"commit_ms": 900.0}, "commits", "warn"),
    ],
)
def test_what_the_daemon_says_of_itself_is_judged(changes, name, verdict, opusctl, healthy, info):
    healthy.answers["system.info"] = info(**changes)
    ran = opusctl("doctor", "--json")
    assert verdicts(ran)[name] == verdict
    assert ran.code == (1 if verdict == "fail" else 0)


def test_a_config_that_others_can_write_fails(opusctl, healthy, home):
    file = home / "config" / "opusd" / "config.toml"
    file.touch()
    file.chmod(0o666)
    assert verdicts(opusctl("doctor", "--json"))["config"] == "fail"
    file.chmod(0o600)
    assert verdicts(opusctl("doctor", "--json"))["config"] == "ok"


@pytest.mark.parametrize(
    ("version", "bug"),
    [("3.6.23", False), ("3.7.0", True), ("3.40.1", True), ("3.51.2", True), ("3.51.3", False), ("odd", False)],
)
def test_the_wal_reset_bug_is_noted_for_the_versions_that_have_it(version, bug):
    assert ("WAL-reset" in sqlite_words(version)) is bug
