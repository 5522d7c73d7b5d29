from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dispatcher.bench import EngineBench, Paced, WriterBench, paced


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Paced]:
    async with paced(tmp_path) as store:
        yield store


@pytest.fixture
async def bench(store: Paced) -> AsyncIterator[WriterBench]:
    """A writer that does not run yet: `bench.run()`."""
    bench = WriterBench(store)
    yield bench
    if bench.running is not None:
        store.open_door()
        bench.writer.close()
        await bench.running


@pytest.fixture
async def engines(store: Paced) -> AsyncIterator[EngineBench]:
    bench = EngineBench(store)
    yield bench
    await bench.stop()
