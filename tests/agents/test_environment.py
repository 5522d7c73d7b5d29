from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opusd.agents.environment import (
    PLACEHOLDERS,
    build_argv,
    build_env,
    check_argv,
    check_elements,
    check_job_env,
    passed_on,
    refuse_secrets,
    resolve_env,
)
from opusd.core.errors import InvalidParams


def test_of_the_daemons_environment_only_the_contracts_names_and_the_agents_globs_pass() -> None:
    base = {
        "HOME": "/h", "PATH": "/p", "LC_ALL": "C", "XDG_RUNTIME_DIR": "/r", "SSH_AUTH_SOCK": "/s",
        "AWS_SECRET": "no", "ANTHROPIC_API_KEY": "yes", "LD_PRELOAD": "no", "LCX": "no",
    }  # fmt: skip
    built = passed_on(base, ["ANTHROPIC_*"])
    assert built == {name: value for name, value in base.items() if value != "no"}


def test_the_later_source_wins_and_opusds_own_names_win_over_all() -> None:
    built = build_env(
        passed_on({"TZ": "base", "OPUS_JOB_ID": "outer"}, ["*"]),
        {"TZ": "agent", "A": "agent", "OPUS_TOKEN": "agent"},
        {"A": "job"},
        {"OPUS_TOKEN": "own"},
    )
    assert built == {"TZ": "agent", "A": "job", "OPUS_TOKEN": "own"}


def test_a_glob_of_everything_does_not_pass_what_is_meant_for_the_daemon() -> None:
    base = {"NOTIFY_SOCKET": "x", "LISTEN_FDS": "1", "WATCHDOG_USEC": "1", "OPUSD_SOCKET": "x", "OTHER": "o"}
    assert passed_on(base, ["*"]) == {"OTHER": "o"}


@pytest.mark.parametrize("name", ["LD_PRELOAD", "LD_LIBRARY_PATH", "OPUS_TOKEN", "OPUSD_SOCKET", "OPUS_X"])
def test_a_job_may_not_set_what_is_the_loaders_or_opusds(name: str) -> None:
    with pytest.raises(InvalidParams) as caught:
        build_env({}, {}, {name: "x"}, {})
    assert caught.value.data["path"] == f"$.env.{name}"


@pytest.mark.parametrize("name", ["", "A=B", "A\0"])
def test_a_name_that_no_environment_can_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidParams):
        check_job_env({name: "x"})


def test_a_literal_under_a_secrets_name_is_refused_and_a_source_is_not() -> None:
    refuse_secrets({"MY_TOKEN": {"from_env": "X"}, "PLAIN": "x"}, ["*_TOKEN"])
    with pytest.raises(InvalidParams, match="from_env"):
        refuse_secrets({"MY_TOKEN": "abc"}, ["*_TOKEN"])
    with pytest.raises(InvalidParams, match="my_Token looks like a secret"):
        refuse_secrets({"my_Token": "abc"}, ["*_token"])


def test_sources_are_read_when_asked_and_one_newline_is_cut(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n\n")
    spec = {"A": "a", "B": {"from_env": "X"}, "C": {"from_file": str(tmp_path / "key")}}
    assert resolve_env(spec, {"X": "x"}) == {"A": "a", "B": "x", "C": "secret\n"}


@pytest.mark.parametrize(
    "value",
    [
        {"from_env": "MISSING"},
        {"from_file": "/no/such/file"},
        {"from_file": "relative"},
        {"from_file": "/dev/zero"},
        {"from_file": "/"},
        {"from_env": "X", "from_file": "/etc/hostname"},
        {"other": "X"},
        3,
    ],
)
def test_a_source_that_is_not_there_is_named(value: object) -> None:
    with pytest.raises(InvalidParams) as caught:
        resolve_env({"A": value}, {"X": "x"})
    assert str(caught.value.data["path"]).startswith("$.env.A")


def test_a_source_that_is_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidParams, match="regular"):
        resolve_env({"A": {"from_file": str(tmp_path / "pipe")}}, {})


def test_a_file_that_is_large_binary_or_holds_a_nul_is_refused(tmp_path: Path) -> None:
    for content in (b"x" * (200 << 10), b"\xff", b"a\0b"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(InvalidParams):
            resolve_env({"A": {"from_file": str(tmp_path / "key")}}, {})


def test_values_are_put_in_once() -> None:
    values = {"prompt": "{title} {prompt}", "title": "{job_id}", "job_id": "7"}
    assert build_argv(["x", "{prompt}", "a{title}b{job_id}"], values) == ["x", "{title} {prompt}", "a{job_id}b7"]


def test_braces_are_nothing_special_and_unknown_words_stay() -> None:
    assert build_argv(["awk", "{{print}}", "{nope}", "{}"], {}) == ["awk", "{{print}}", "{nope}", "{}"]


@given(st.text().filter(lambda text: "\0" not in text))
def test_a_value_arrives_as_it_is_in_its_element_and_nowhere_else(value: str) -> None:
    assert build_argv(["x", "--", "{prompt}", "p={prompt}"], {"prompt": value}) == ["x", "--", value, "p=" + value]


def test_a_value_that_looks_like_an_option_is_refused_unless_two_dashes_stand_before_it() -> None:
    with pytest.raises(InvalidParams, match="--") as caught:
        build_argv(["x", "-p", "{prompt}"], {"prompt": "--yolo"})
    assert caught.value.data["path"] == "$.argv[2]"
    assert build_argv(["x", "--", "{prompt}"], {"prompt": "--yolo"}) == ["x", "--", "--yolo"]
    assert build_argv(["x", "--prompt={prompt}"], {"prompt": "-y"}) == ["x", "--prompt=-y"]
    with pytest.raises(InvalidParams):
        build_argv(["x", "{prompt}", "--"], {"prompt": "-y"})


def test_an_element_that_exec_would_refuse_is_refused_with_a_way_out() -> None:
    check_elements(["x" * (128 * 1024 - 1)])
    for element in ("x" * (128 * 1024), "é" * (64 * 1024)):
        with pytest.raises(InvalidParams, match="stdin"):
            build_argv(["x", "{prompt}"], {"prompt": element})
    with pytest.raises(InvalidParams, match="NUL"):
        check_elements(["a\0b"])


def test_a_template_with_an_unknown_placeholder_or_no_program_is_a_config_error() -> None:
    check_argv(["x", *(f"{{{name}}}" for name in PLACEHOLDERS)])
    with pytest.raises(InvalidParams, match="promt") as caught:
        check_argv(["x", "{promt}"])
    assert caught.value.data["path"] == "$.argv[1]"
    for empty in ([], [""]):
        with pytest.raises(InvalidParams):
            check_argv(empty)
