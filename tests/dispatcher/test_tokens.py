"""Names and tokens of attempts, which are drawn many at a time."""

import hashlib
import secrets

import pytest

from opusd.dispatcher import tokens


@pytest.fixture(autouse=True)
def _none_drawn(monkeypatch):
    monkeypatch.setattr(tokens, "_drawn", [])


def test_no_name_and_no_token_is_ever_given_out_twice():
    minted = [tokens.mint() for _ in range(3 * tokens._DRAWN + 5)]
    names = {name for name, _, _ in minted} | {token for _, token, _ in minted}
    assert len(names) == 2 * len(minted)
    assert {len(name) * 4 for name in names} == {128}
    assert all(int(name, 16) >= 0 for name in names)


def test_what_is_kept_of_a_token_is_its_hash():
    for name, token, kept in (tokens.mint() for _ in range(tokens._DRAWN + 1)):
        assert kept == hashlib.sha256(token.encode()).digest() == tokens.hash_token(token)
        assert kept != tokens.hash_token(name)


def test_the_machine_is_asked_for_chance_once_for_many(monkeypatch):
    asked = []

    def drawn(count):
        asked.append(count)
        return "ab" * count

    monkeypatch.setattr(secrets, "token_hex", drawn)
    for _ in range(2 * tokens._DRAWN):
        tokens.mint()
    assert asked == [32 * tokens._DRAWN] * 2
