import pytest

from opusd.store.memory import MemoryStore
from opusd.store.sqlite import SqliteStore
from opusd.testing.stores import Conformance, Reopened

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])


class TestConformance(Conformance):
    @pytest.fixture(params=["memory", "sqlite", "sqlite reopened between every two calls"])
    async def store(self, request, tmp_path):
        path = tmp_path / "state" / "opusd.db"
        kinds = {"memory": MemoryStore, "sqlite": lambda: SqliteStore(path)}
        store = kinds.get(request.param, lambda: Reopened(SqliteStore(path)))()
        await store.open()
        yield store
        await store.close()
