"""[[notifications]]: what is refused, and with which words."""

from typing import Any

import pytest

from opusd.config import ConfigError, parse
from opusd.core.job import Tier

HOOK = {"name": "hook", "on": ["failed"], "url": "https://example.com/h", "secret": {"from_env": "S"}}
DESK = {"name": "desk", "on": ["failed"], "command": ["notify-send", "{text}"]}


def refusal(*tables: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse({"notifications": list(tables)})
    return str(caught.value)


def test_a_webhook_and_a_command_are_read() -> None:
    hook, desk = parse({"notifications": [HOOK, {**DESK, "min_tier": "urgent", "waited": "1h"}]}).notifications
    assert (hook.url, hook.secret, hook.command) == ("https://example.com/h", {"from_env": "S"}, ())
    assert (desk.url, desk.command, desk.min_tier) == (None, ("notify-send", "{text}"), Tier.URGENT)
    assert desk.waited == 3_600_000_000


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/h?a=b",
        "https://example.com:8443",
        "http://localhost/h",
        "http://hooks.localhost:99/h",
        "http://127.8.9.1:8080/h",
        "http://[::1]:8080/h",
    ],
)
def test_https_anywhere_and_http_to_this_machine_are_taken(url: str) -> None:
    assert parse({"notifications": [{**HOOK, "url": url}]}).notifications[0].url == url


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/h", "http goes to this machine alone"),
        ("http://127.0.0.1.example.com/h", "http goes to this machine alone"),
        ("http://localhost.example.com/h", "http goes to this machine alone"),
        ("http://2130706433/h", "http goes to this machine alone"),
        ("http://0.0.0.0/h", "http goes to this machine alone"),
        ("ftp://example.com/h", "is not a URL such as"),
        ("example.com/h", "is not a URL such as"),
        ("https:///h", "is not a URL such as"),
        ("", "is not a URL such as"),
        ("https://example.com:0/h", "is not a URL such as"),
        ("https://me:secret@example.com/h", "a user or a password"),
        ("https://me@example.com/h", "a user or a password"),
        ("http://localhost@example.com/h", "a user or a password"),
        ("https://example.com/h#top", "a fragment"),
        ("https://example.com/a b", "without spaces"),
        ("https://example.com/\r\nHost: other", "without spaces"),
        ("https://ex\u00e4mple.com/h", "xn--"),
        ("https://example.com:99999/h", "Port out of range"),
        (f"https://{'a' * 64}.com/h", "too long"),
        ("https://example.com/" + "a" * 2000, "at most 2000"),
    ],
)
def test_any_other_url_is_refused(url: str, words: str) -> None:
    message = refusal({**HOOK, "url": url})
    assert message.startswith("notifications[1].url")
    assert words in message
    assert "secret@" not in message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({**HOOK, "on": ["faild"]}, "notifications[1].on: 'faild' is not one of failed, expired"),
        ({**HOOK, "on": []}, "notifications[1].on is empty"),
        ({**HOOK, "name": ""}, "notifications[1].name"),
        ({**HOOK, "command": ["true"]}, "a command or a url, one of the two"),
        ({"name": "a", "on": ["failed"]}, "a command or a url, one of the two"),
        ({**HOOK, "secret": {}}, "notifications[1].secret is missing"),
        ({**HOOK, "secret": "whsec_AAAA"}, "notifications[1].secret is a table, not a string"),
        ({**HOOK, "secret": {"from_env": "A", "from_file": "/b"}}, "one of the two"),
        ({**HOOK, "secret": {"from_file": "b"}}, "from_file is an absolute path"),
        ({**HOOK, "secret": {"from_env": ""}}, "names nothing"),
        ({**HOOK, "include": ["message"]}, "no webhook carries"),
        ({**HOOK, "include": ["question"]}, "no webhook carries"),
        ({**DESK, "include": ["prompt"]}, "'prompt' is not one of title, message, question"),
        ({**DESK, "secret": {"from_env": "A"}}, "a command reads its own"),
        ({**DESK, "command": [""]}, "names no program"),
        ({**DESK, "command": ["a", "b\0"]}, "a NUL"),
        ({**DESK, "agents": ["clod"]}, "there is no agent 'clod'"),
        ({**DESK, "min_tier": "high"}, "'high' is not one of low, normal"),
        ({**DESK, "waited": "soon"}, "is not a duration"),
        ({**DESK, "gruops": ["a"]}, "the nearest is 'groups'"),
    ],
)
def test_what_can_not_be_is_refused_by_name(table: dict[str, Any], words: str) -> None:
    assert words in refusal(table)


def test_names_are_told_apart_and_their_number_is_bounded() -> None:
    assert "notifications[2].name: 'hook' is the name of another one" in refusal(HOOK, HOOK)
    assert "there may be 20" in refusal(*({**HOOK, "name": f"n{number}"} for number in range(21)))
