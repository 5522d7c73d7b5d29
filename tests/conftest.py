"""Loops: a test runs on asyncio's own, unless its module or itself asks for others.

pytestmark = pytest.mark.asyncio(loop_factories=["asyncio", "uvloop"])
"""

import asyncio
import signal

import pytest
import uvloop

# Before the tests of any folder import them.
pytest.register_assert_rewrite("opusd.testing.stores", "opusd.testing.store_reading")

# A shell starts what it puts in the background with SIGINT ignored, and what we start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPS = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


def pytest_asyncio_loop_factories(config, item):
    marker = item.get_closest_marker("asyncio")
    asked = marker is not None and "loop_factories" in marker.kwargs
    return LOOPS if asked else {"asyncio": asyncio.SelectorEventLoop}
