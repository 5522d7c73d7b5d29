from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.dispatcher.bench import paced
from tests.triggers.bench import ScheduleBench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[ScheduleBench]:
    async with paced(tmp_path) as store:
        bench = ScheduleBench(store)
        await bench.up()
        yield bench
        await bench.down()
        await bench.stop()
