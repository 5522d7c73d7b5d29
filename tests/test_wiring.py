"""What the configuration means for the parts, where the machine has a say."""

import resource

import pytest

from opusd.config import parse
from opusd.wiring import connection_values, lacking_files


@pytest.mark.parametrize(
    ("files", "wanted", "most"),
    [
        (1024, "auto", 768),
        (20_000, "auto", 10_000),
        (resource.RLIM_INFINITY, "auto", 10_000),
        (20_000, 12_000, 12_000),
        (20_000, 16_000, 15_000),
        (1024, 5, 5),
    ],
)
def test_connections_leave_a_quarter_of_the_open_files_to_everything_else(monkeypatch, files, wanted, most):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    config = parse({"socket": {"max_connections": wanted}})
    assert connection_values(config) == {"max_connections": most}
    told = lacking_files(config)
    assert told == (
        ["the limit of open files (ulimit -n) has room for 15000 connections, and socket.max_connections is 16000"]
        if most == 15_000
        else []
    )
