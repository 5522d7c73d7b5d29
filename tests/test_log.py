import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import structlog

from opusd import log
from opusd.testing.clock import FakeClock


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    handlers, configuration = logging.getLogger().handlers, structlog.get_config()
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
    logging.getLogger().handlers = handlers
    structlog.configure(**configuration)


@pytest.fixture
def lines(pipe: tuple[int, int]) -> Callable[[], list[str]]:
    def read() -> list[str]:
        data = b""
        while select.select([pipe[0]], [], [], 0)[0]:
            data += os.read(pipe[0], 1 << 16)
        return data.decode().splitlines()

    return read


def test_a_record_is_a_line_of_time_level_event_and_who(pipe: tuple[int, int], lines: Callable[[], list[str]]) -> None:
    log.configure(level="info", form="text", now=FakeClock().now, stream=pipe[1])
    structlog.get_logger().info("job.started", pid=7, agent="claude", job=41, attempt=1, actor="scheduler")
    assert lines() == [
        "2026-01-01T00:00:00.000000Z info    job.started job=41 attempt=1 agent=claude actor=scheduler pid=7"
    ]


def test_json_is_one_object_a_line_with_the_same_names(pipe: tuple[int, int], lines: Callable[[], list[str]]) -> None:
    log.configure(level="info", form="json", now=FakeClock().now, stream=pipe[1])
    structlog.get_logger().bind(job=41).warning("job.lost", path=os, actor=None)
    (record,) = map(json.loads, lines())
    assert list(record) == ["time", "level", "event", "job", "path", "actor"]
    assert (record["level"], record["event"], record["job"]) == ("warning", "job.lost", 41)


def test_less_than_the_level_is_not_written(pipe: tuple[int, int], lines: Callable[[], list[str]]) -> None:
    log.configure(level="warning", form="text", now=FakeClock().now, stream=pipe[1])
    structlog.get_logger().info("job.started")
    structlog.get_logger().error("job.failed")
    assert [line.split()[2] for line in lines()] == ["job.failed"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_line_stays_a_line_and_no_escape_gets_through(
    form: str, pipe: tuple[int, int], lines: Callable[[], list[str]]
) -> None:
    log.configure(level="info", form=form, now=FakeClock().now, stream=pipe[1])  # type: ignore[arg-type]
    try:
        int("bad\nthing\x1b[31m")
    except ValueError:
        structlog.get_logger().exception("daemon.failed", name='a "b" c', other="x\ny\udcff")
    (line,) = lines()
    assert line.isprintable()
    assert "ValueError" in line


def test_a_reader_that_does_not_read_costs_records_and_is_told_how_many(
    pipe: tuple[int, int], lines: Callable[[], list[str]]
) -> None:
    log.configure(level="info", form="text", now=FakeClock().now, stream=pipe[1])
    logger = structlog.get_logger()
    for number in range(1000):  # 64 KiB are full after about 20; it would block for ever
        logger.info("job.queued", text="x" * 3000, number=number)
    kept = len(lines())
    assert 10 < kept < 100
    logger.info("job.started")
    told, last = lines()
    assert told.endswith(f"warning log.lost records={1000 - kept}")
    assert last.endswith("job.started")


@pytest.mark.parametrize(
    "extra", [{"text": "é" * 10_000}, {f"text{i}": "é" * 900 for i in range(9)}], ids=["one", "many"]
)
def test_a_long_record_is_cut_to_what_a_pipe_takes_at_once(
    extra: dict[str, str], pipe: tuple[int, int], lines: Callable[[], list[str]]
) -> None:
    log.configure(level="info", form="json", now=FakeClock().now, stream=pipe[1])
    structlog.get_logger().info("job.queued", job=41, **extra)
    (line,) = lines()
    assert len(line) < 4096
    assert json.loads(line)["job"] == 41


def test_a_long_traceback_keeps_its_end(pipe: tuple[int, int], lines: Callable[[], list[str]]) -> None:
    log.configure(level="info", form="json", now=FakeClock().now, stream=pipe[1])

    def deep(levels: int) -> int:
        return int("no number") if not levels else -deep(levels - 1) + 0

    try:
        deep(5)
        deep(200)
    except ValueError:
        structlog.get_logger().exception("daemon.failed", note="y" * 5000)
    (line,) = lines()
    assert "no number" in json.loads(line)["exception"]


def test_a_closed_reader_harms_nobody(pipe: tuple[int, int]) -> None:
    read, write = os.pipe()
    os.close(read)
    log.configure(level="info", form="text", now=FakeClock().now, stream=write)
    structlog.get_logger().info("job.started")
    os.close(write)


def test_what_libraries_say_is_heard_from_warnings_on(pipe: tuple[int, int], lines: Callable[[], list[str]]) -> None:
    log.configure(level="info", form="text", now=FakeClock().now, stream=pipe[1])
    logging.getLogger("asyncio").info("quiet")
    logging.getLogger("asyncio").warning("slow %s", "callback")
    assert [line.split(" ", 1)[1] for line in lines()] == ['warning asyncio message="slow callback"']


def test_the_daemon_imports_no_rich_and_takes_it_from_nobody() -> None:
    pytest.importorskip("rich")
    program = "import sys, opusd.__main__\nassert 'rich' not in sys.modules\nimport rich"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("lowest", ["debug", "info", "warning", "error"])
def test_the_levels_that_are_said_to_be_written_are_those_that_are(
    lowest: str, pipe: tuple[int, int], lines: Callable[[], list[str]]
) -> None:
    log.configure(level=lowest, form="text", now=FakeClock().now, stream=pipe[1])
    for level in ("debug", "info", "warning", "error"):
        getattr(log.logger(), level)("job.started")
    assert {line.split()[1] for line in lines()} == log.written(lowest)


def test_a_logger_writes_what_is_to_be_written_now_and_not_what_was_when_it_was_made(
    pipe: tuple[int, int], lines: Callable[[], list[str]]
) -> None:
    log.configure(level="error", form="text", now=FakeClock().now, stream=pipe[1])
    kept = log.logger()
    for level in ("info", "error", "debug"):
        log.configure(level=level, form="text", now=FakeClock().now, stream=pipe[1])
        kept.info(f"at.{level}")
    assert [line.split()[2] for line in lines()] == ["at.info", "at.debug"]
