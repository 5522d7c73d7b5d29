from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dispatcher.bench import paced
from tests.observers.bench import NotifierBench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[NotifierBench]:
    async with paced(tmp_path) as store:
        bench = NotifierBench(store)
        yield bench
        await bench.die()
        if bench.running is not None:
            store.open_door()
            bench.writer.close()
            await bench.running
