"""What the storms' loop leaves to chance, and what it must not."""

from __future__ import annotations

import random

from tests.simulation.storms.loop import Loop


def order_of(seed: int) -> str:
    """In which order these came, all due in one jump: timers as digits, callbacks as capitals, threads as letters."""
    loop, said = Loop(random.Random(seed)), list[str]()
    for timer in "123":
        loop.call_later(0.001, said.append, timer)
    for thread in "abc":
        loop.elsewhere(0.001, said.append, thread)
    for callback in "XYZ":
        loop.call_soon(said.append, callback)
    while len(said) < 9:
        loop.step()
    return "".join(said)


def test_callbacks_and_timers_come_in_their_order_and_what_other_threads_say_in_any() -> None:
    orders = {order_of(seed) for seed in range(300)}
    assert {"".join(each for each in order if each in "123XYZ") for order in orders} == {"XYZ123"}
    threads = {"".join(each for each in order if each in "abc") for order in orders}
    assert threads == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert any(order.index("a") < order.index("1") for order in orders)
    assert any(order.index("a") > order.index("3") for order in orders)


def test_the_same_seed_is_the_same_order() -> None:
    assert order_of(3) == order_of(3)
