import asyncio

import pytest

from opusd.core.errors import StorageUnavailable
from opusd.store.sqlite_lookup import Lookup
from tests.dispatcher.bench import turns

BOUND = 5.0


class Table:
    """Rows 1 to 9; a read waits until it is `let`."""

    def __init__(self, *, held: bool = False) -> None:
        self.queries: list[list[int]] = []
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.failure: Exception | None = None
        if not held:
            self.open.set()

    async def read(self, ids: list[int]) -> list[tuple[int, str]]:
        self.queries.append(ids)
        self.begun.set()
        async with asyncio.timeout(BOUND):
            await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return [(id_, f"row {id_}") for id_ in reversed(ids) if id_ < 10]


async def test_rows_come_in_the_order_asked_for_without_those_that_there_are_not() -> None:
    lookup = Lookup(Table().read)
    assert await lookup.rows([3, 99, 1, 3]) == [(3, "row 3"), (1, "row 1"), (3, "row 3")]
    assert await lookup.rows([]) == []


async def test_what_is_asked_at_one_moment_is_one_query() -> None:
    table = Table()
    lookup = Lookup(table.read)
    first, second, third = await asyncio.gather(lookup.rows([1, 2]), lookup.rows([2, 3]), lookup.rows([4]))
    assert (first[1], second[0], third) == ((2, "row 2"), (2, "row 2"), [(4, "row 4")])
    assert table.queries == [[1, 2, 3, 4]]


async def test_what_is_asked_while_a_query_is_under_way_is_read_after_it_and_together() -> None:
    table = Table(held=True)
    lookup = Lookup(table.read)
    early = asyncio.create_task(lookup.rows([1]))
    await table.begun.wait()
    late = [asyncio.create_task(lookup.rows([number])) for number in (1, 5)]
    await turns(2)
    assert table.queries == [[1]]
    table.open.set()
    assert [await task for task in (early, *late)] == [[(1, "row 1")], [(1, "row 1")], [(5, "row 5")]]
    assert table.queries == [[1], [1, 5]]


async def test_a_query_takes_no_more_than_a_thousand_ids_of_several_calls() -> None:
    table = Table()
    lookup = Lookup(table.read)
    await asyncio.gather(*(lookup.rows(range(start, start + 600)) for start in (1, 1001, 2001)))
    assert [len(ids) for ids in table.queries] == [600, 600, 600]


async def test_who_no_longer_waits_takes_nothing_from_the_others() -> None:
    table = Table(held=True)
    lookup = Lookup(table.read)
    gone, stays = asyncio.create_task(lookup.rows([1])), asyncio.create_task(lookup.rows([2]))
    await table.begun.wait()
    gone.cancel()
    table.open.set()
    assert await stays == [(2, "row 2")]
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_a_read_that_fails_fails_for_all_who_shared_it_and_for_nobody_after() -> None:
    table = Table()
    table.failure = StorageUnavailable("the registry can't be read: disk I/O error")
    lookup = Lookup(table.read)
    failed = await asyncio.gather(lookup.rows([1]), lookup.rows([2]), return_exceptions=True)
    assert [str(error) for error in failed] == ["the registry can't be read: disk I/O error"] * 2
    table.failure = None
    assert await lookup.rows([1]) == [(1, "row 1")]


async def test_a_fault_is_everybodys_who_shared_it_too_and_not_the_end_of_looking_up() -> None:
    table = Table()
    table.failure = KeyError("a fault of ours")
    lookup = Lookup(table.read)
    failed = await asyncio.gather(lookup.rows([1]), lookup.rows([2]), return_exceptions=True)
    assert [type(error) for error in failed] == [KeyError, KeyError]
    table.failure = None
    assert await lookup.rows([1]) == [(1, "row 1")]


async def test_closing_waits_for_the_query_under_way() -> None:
    table = Table(held=True)
    lookup = Lookup(table.read)
    asked = asyncio.create_task(lookup.rows([1]))
    await table.begun.wait()
    closing = asyncio.create_task(lookup.close())
    await turns(2)
    assert not closing.done()
    table.open.set()
    await closing
    assert await asked == [(1, "row 1")]
    await lookup.close()
