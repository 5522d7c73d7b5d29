"""Captured streams, and ways to feed them."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from opusd.agents.adapters import adapter
from opusd.agents.adapters.base import Observation, Usage, Verdict
from opusd.agents.spec import Exit

STREAMS = Path(__file__).parents[2] / "data" / "agent-streams"
NOW = 1_795_480_000_000_000  # 2026-11-24T00:26:40Z
TAIL = 2048

Watch = Callable[..., tuple[list[Observation], Verdict]]


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[str]:
    """As a reader of a log decodes them: a character that is cut waits for its rest."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    begin = 0
    for cut in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        yield decoder.decode(data[begin:cut], final=cut == len(data))
        begin = cut


@pytest.fixture(scope="session")
def stream() -> Callable[[str], bytes]:
    return lambda name: (STREAMS / name).read_bytes()


@pytest.fixture(scope="session")
def watch() -> Watch:
    """Feed an adapter and end it: what was seen, and the verdict."""

    def run(
        name: str,
        output: bytes | str,
        code: int = 0,
        *,
        cuts: Iterable[int] = (),
        how: Exit | None = None,
        now: int = NOW,
        before: Usage | None = None,
    ) -> tuple[list[Observation], Verdict]:
        data = output.encode() if isinstance(output, str) else output
        watching = adapter(name, before=before)
        seen = [one for text in pieces(data, cuts) for one in watching.feed(text)]
        tail = data[-TAIL:].decode("utf-8", "replace")
        return seen, watching.end(how or Exit(kind="exit", code=code), now, tail)

    return run
