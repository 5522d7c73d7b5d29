from __future__ import annotations

import pytest


def one(name: str, **fields: object) -> dict[str, object]:
    return {
        "name": name, "to": "webhook", "on": ["expired", "failed"], "waiting": 0, "sent": 3, "failed": 0, "dropped": 0,
        "gone": False, "problem": None,
    } | fields  # fmt: skip


FOUND = [one("phone"), one("desk", to="command", on=["failed"], waiting=2, dropped=1, problem="exit code 1")]


def test_notifications_are_listed_with_how_they_are_doing(opusctl, daemon):
    daemon.answers["notification.list"] = {"notifications": FOUND}
    ran = opusctl("notify")
    assert ran.code == 0
    rows = [[cell.strip() for cell in line.split("  ") if cell] for line in ran.out.splitlines()]
    assert rows == [
        ["NAME", "TO", "ON", "SENT", "WAITING", "STATE"],
        ["phone", "webhook", "expired failed", "3", "0", "ok"],
        ["desk", "command", "failed", "3", "2", "exit code 1; 1 message given up"],
    ]
    assert opusctl("notify", "-q").out == "phone\ndesk\n"
    assert opusctl("notify", "--json").json == {"notifications": FOUND}


def test_without_notifications_it_says_so(opusctl, daemon):
    daemon.answers["notification.list"] = {"notifications": []}
    ran = opusctl("notify")
    assert (ran.code, ran.out, ran.err) == (0, "", "no notifications are configured\n")


def test_a_test_ends_as_the_delivery_does(opusctl, daemon):
    daemon.answers["notification.test"] = {"ok": True, "problem": None}
    ran = opusctl("notify", "test", "phone")
    assert (ran.code, ran.out, ran.err) == (0, "", "phone took it\n")
    daemon.answers["notification.test"] = {"ok": False, "problem": "HTTP 500"}
    ran = opusctl("notify", "test", "phone")
    assert (ran.code, ran.err) == (1, "phone did not take it: HTTP 500\n")
    ran = opusctl("notify", "test", "phone", "--json")
    assert (ran.code, ran.json) == (1, {"ok": False, "problem": "HTTP 500"})
    assert daemon.sent("notification.test")[0] == {"name": "phone"}


def test_an_unknown_name_is_not_found(opusctl, daemon, refusal):
    def refuse(_params):
        raise refusal(-32001, "not_found", "there is no notification 'fone'")

    daemon.answers["notification.test"] = refuse
    ran = opusctl("notify", "test", "fone")
    assert ran.code == 4
    assert "there is no notification 'fone'" in ran.err


@pytest.mark.parametrize("words", [["phone"], ["test"], ["test", "a", "b"]])
def test_other_words_are_a_mistake(opusctl, words):
    assert opusctl("notify", *words).code == 2
