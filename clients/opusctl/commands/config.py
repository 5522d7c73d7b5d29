"""`opusctl config`: what the daemon runs with, and the longest wait that its order can cause."""

from __future__ import annotations

from opusctl.failure import OK
from opusctl.text import scalar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

    from opusctl.parsing import Parser
    from opusctl.screen import Screen
    from opusctl.session import Session


def arguments(parser: Parser) -> None:
    pass


def run(session: Session, _args: Namespace) -> int:
    screen = session.screen
    info = session.call("system.info")
    config = info.get("config")
    if screen.as_json:
        screen.json(config if config is not None else {})
    elif not isinstance(config, dict):
        screen.talk(f"this daemon (version {info.get('version')}) does not say what it runs with")
    else:
        _show(screen, "", config)
        _bound(screen, config.get("bound_hours"))
    return OK


def _show(screen: Screen, table: str, values: dict[str, Any]) -> None:
    """As TOML would have it: plain values first, then a heading for each table within."""
    inner = {name: value for name, value in values.items() if isinstance(value, dict) and value}
    for name, value in values.items():
        if name not in inner:
            screen.line(name, (" = ", "dim"), _value(value))
    for name, value in inner.items():
        path = f"{table}.{name}" if table else name
        screen.line("")
        screen.line((f"[{path}]", "bold"))
        _show(screen, path, value)


def _value(value: Any) -> str:
    import json

    return scalar(json.dumps(value, ensure_ascii=False)) if isinstance(value, str) else scalar(value)


def _bound(screen: Screen, hours: Any) -> None:
    if isinstance(hours, (int, float)):
        screen.talk(
            f"The longest wait: no job that is not critical and became ready more than {hours:.1f} hours"
            " after another goes before it."
        )
