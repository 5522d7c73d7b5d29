import pytest_asyncio

from tests.rpc.fake import Daemon


@pytest_asyncio.fixture
async def daemon(tmp_path):
    async with Daemon(tmp_path / "s") as daemon:
        yield daemon


@pytest_asyncio.fixture
async def peer(daemon):
    return await daemon.peer()
