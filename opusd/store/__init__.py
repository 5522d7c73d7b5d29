"""The registry: what is on disk is the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opusd.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from pathlib import Path

    from opusd.store.base import Store


async def open_store(path: Path) -> Store:
    """The registry in the file at `path`, open; made when nothing ever was there. StoreError says what is wrong."""
    store = SqliteStore(path)
    await store.open()
    return store
