"""config.example.toml as it would be with its settings in force: one # and no space stands before a key."""

import re
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
READY = ("claude", "codex", "opencode", "aider")
"""The agents whose sections are ready: whoever runs these programs in a test runs them as those sections say."""


def uncommented() -> str:
    return re.sub(r"(?m)^#(?=\S)", "", EXAMPLE.read_text())


def section(agent: str) -> str:
    """The table of this agent, ready to be put into a configuration."""
    header = f"[agents.{agent}]\n"
    begin = uncommented().index(header)
    table = re.match(r"(?:\S.*\n)+", uncommented()[begin:])
    assert table is not None
    return table[0]
