from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from opusd.testing.bench import Bench


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.pool.open()
    yield bench
    await bench.pool.close()
    bench.clean_up()
