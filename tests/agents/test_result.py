from __future__ import annotations

import os
from pathlib import Path

import pytest

from opusd.agents.result import MAX_BYTES, read_result
from opusd.testing.bench import Bench


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_no_result_is_no_problem(tmp_path: Path, out: Path) -> None:
    assert read_result(tmp_path) == (None, None)
    assert read_result(tmp_path / "pruned") == (None, None)


def test_json_of_1_mib_is_taken_as_it_is(tmp_path: Path, out: Path) -> None:
    text = b'"' + b"x" * (MAX_BYTES - 2) + b'"'
    (out / "result.json").write_bytes(text)
    assert read_result(tmp_path) == (text, None)


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b"NaN", b"[1] 2", b'{"a": "\xff"}', b"[" * 100_000])
def test_what_is_not_json_is_ignored_and_said(tmp_path: Path, out: Path, text: bytes) -> None:
    (out / "result.json").write_bytes(text)
    data, problem = read_result(tmp_path)
    assert data is None
    assert problem is not None
    assert "JSON" in problem


def test_a_result_over_1_mib_is_ignored(tmp_path: Path, out: Path) -> None:
    (out / "result.json").write_bytes(b'"' + b"x" * MAX_BYTES + b'"')
    assert "larger" in (read_result(tmp_path)[1] or "")


def test_a_symbolic_link_is_not_followed(tmp_path: Path, out: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (out / "result.json").symlink_to(tmp_path / "secret")
    assert "symbolic link" in (read_result(tmp_path)[1] or "")


def test_a_folder_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "result.json").write_text("{}")
    (tmp_path / "out").symlink_to(tmp_path / "else")
    data, problem = read_result(tmp_path)
    assert data is None
    assert problem is not None


def test_a_second_link_is_refused(tmp_path: Path, out: Path) -> None:
    (tmp_path / "mine").write_text("{}")
    (out / "result.json").hardlink_to(tmp_path / "mine")
    assert "more than one link" in (read_result(tmp_path)[1] or "")


def test_a_pipe_does_not_block(tmp_path: Path, out: Path) -> None:
    os.mkfifo(out / "result.json")
    assert "regular" in (read_result(tmp_path)[1] or "")


def test_a_folder_at_the_results_place_is_refused(tmp_path: Path, out: Path) -> None:
    (out / "result.json").mkdir()
    assert "regular" in (read_result(tmp_path)[1] or "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(tmp_path: Path, out: Path) -> None:
    (out / "result.json").write_text("{}")
    os.chown(out / "result.json", 12345, 12345)
    assert "another user" in (read_result(tmp_path)[1] or "")


async def test_what_an_agent_writes_to_opus_result_comes_with_its_end(bench: Bench) -> None:
    bench.start("sh", "-c", """echo '{"answer": 42}' > "$OPUS_RESULT" """)
    ended = await bench.ended()
    assert (ended.result, ended.result_problem) == (b'{"answer": 42}\n', None)


async def test_a_result_that_cannot_be_used_does_not_change_the_exit(bench: Bench) -> None:
    bench.start("sh", "-c", 'ln -s /etc/passwd "$OPUS_RESULT"; exit 0')
    ended = await bench.ended()
    assert ended.exit.code == 0
    assert ended.result is None
    assert "symbolic link" in (ended.result_problem or "")


@pytest.mark.parametrize("depth", [129, 800, 984, 990, 1100])
def test_a_result_that_is_nested_too_deep_is_ignored_whoever_reads_it_later(
    tmp_path: Path, out: Path, depth: int
) -> None:
    (out / "result.json").write_bytes(b"[" * depth + b"]" * depth)
    data, problem = read_result(tmp_path)
    assert data is None
    assert "128 deep" in (problem or "")


def test_a_result_of_128_levels_is_taken(tmp_path: Path, out: Path) -> None:
    text = b"[" * 128 + b"]" * 128
    (out / "result.json").write_bytes(text)
    assert read_result(tmp_path) == (text, None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"9223372036854775808", "an integer past 2^63"),
        (b'{"a": [1, {"b": -9223372036854775809}]}', "an integer past 2^63"),
        (b'["1234567890123456789", 123456789012345678901234567890]', "an integer past 2^63"),
        (rb'{"a": ["b\u0000"]}', "a NUL character"),
        (rb'{"\u0000": 1}', "a NUL character"),
        (b"[" * 128 + rb'"\u0000"' + b"]" * 128, "a NUL character"),
    ],
)
def test_what_the_wire_refuses_is_ignored_and_said(tmp_path: Path, out: Path, text: bytes, words: str) -> None:
    (out / "result.json").write_bytes(text)
    data, problem = read_result(tmp_path)
    assert data is None
    assert words in (problem or "")


@pytest.mark.parametrize(
    "text", [b"9223372036854775807", b"[-9223372036854775808, true, 1e300]", rb'"\\u0000 12345678901234567890"']
)
def test_what_the_wire_takes_is_taken(tmp_path: Path, out: Path, text: bytes) -> None:
    (out / "result.json").write_bytes(text)
    assert read_result(tmp_path) == (text, None)
