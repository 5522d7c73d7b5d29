"""The tables of notifications: where each goes, and what it may carry.

A webhook leaves the machine, so it is signed, encrypted unless it stays on loopback, and holds nothing that an agent
printed. Secrets are named here and read where they are needed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from opusd.config.decode import ConfigError
from opusd.config.tables import NotificationTable, Secret
from opusd.core.job import Tier

MOST_SINKS: Final = 20
"""Each delivers by itself, so this bounds how many deliveries there are at once."""
_LONGEST_URL: Final = 2000


class Sink(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver: a program, or a webhook with its secret. Empty `agents`, `groups`: all; `waited` is microseconds."""

    name: str
    on: frozenset[str]
    command: tuple[str, ...] = ()
    url: str | None = None
    secret: dict[str, str] = {}
    agents: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    min_tier: Tier = Tier.LOW
    waited: int = 0
    include: frozenset[str] = frozenset()


def read_sinks(tables: Sequence[NotificationTable]) -> tuple[Sink, ...]:
    sinks = tuple(_sink(number, table) for number, table in enumerate(tables, 1))
    names = [sink.name for sink in sinks]
    for number, name in enumerate(names, 1):
        if name in names[: number - 1]:
            raise ConfigError(f"notifications[{number}].name: {name!r} is the name of another one")
    if len(sinks) > MOST_SINKS:
        raise ConfigError(f"notifications: {len(sinks)} of them; there may be {MOST_SINKS}")
    return sinks


def _sink(number: int, table: NotificationTable) -> Sink:
    path = f"notifications[{number}]"
    if not table.on:
        raise ConfigError(f"{path}.on is empty: of what is {table.name!r} to be told?")
    if bool(table.command) is (table.url is not None):
        raise ConfigError(f"{path}: a command or a url, one of the two")
    if table.url is None:
        _command(table, path)
    else:
        _webhook(table, table.url, path)
    return Sink(
        name=table.name,
        on=frozenset(table.on),
        command=table.command,
        url=table.url,
        secret=_secret(table.secret, f"{path}.secret"),
        agents=table.agents,
        groups=table.groups,
        min_tier=Tier[table.min_tier.upper()],
        waited=table.waited,
        include=frozenset(table.include),
    )


def _command(table: NotificationTable, path: str) -> None:
    if table.secret != Secret():
        raise ConfigError(f"{path}.secret signs what goes to a url; a command reads its own")
    if not table.command[0]:
        raise ConfigError(f"{path}.command names no program")
    if any("\0" in argument for argument in table.command):
        raise ConfigError(f"{path}.command: an argument can't hold a NUL")


def _webhook(table: NotificationTable, url: str, path: str) -> None:
    _url(url, f"{path}.url")
    if table.secret == Secret():
        raise ConfigError(f'{path}.secret is missing: {{from_env = NAME}} or {{from_file = PATH}}, of a "whsec_..."')
    for word in table.include:
        if word != "title":
            raise ConfigError(
                f"{path}.include: {word} may hold what an agent printed, which no webhook carries; a command may"
            )


def _secret(secret: Secret, path: str) -> dict[str, str]:
    given = {"from_env": secret.from_env, "from_file": secret.from_file}
    found = {key: value for key, value in given.items() if value is not None}
    if len(found) > 1:
        raise ConfigError(f"{path}: {{from_env = NAME}} or {{from_file = PATH}}, one of the two")
    if not all(found.values()):
        raise ConfigError(f"{path} names nothing")
    if secret.from_file is not None and not secret.from_file.startswith("/"):
        raise ConfigError(f"{path}.from_file is an absolute path")
    return found


def _url(url: str, path: str) -> None:
    """ConfigError for what is no https URL, nor an http one that stays on this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > _LONGEST_URL:
        raise ConfigError(f"{path}: at most {_LONGEST_URL} characters of ASCII without spaces, its host as xn--...")
    if parts.scheme not in {"https", "http"} or not host or port == 0:
        raise ConfigError(f"{path} is not a URL such as https://example.com/hook")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{path} holds a user or a password: the signature says who we are")
    if parts.fragment:
        raise ConfigError(f"{path} holds a fragment (#...), which no server would see")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigError(f"{path}: http goes to this machine alone (localhost, 127.0.0.0/8, [::1]); use https")


def is_loopback(host: str) -> bool:
    """Whether a host, as a name or as an address, is this machine's own by definition."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
