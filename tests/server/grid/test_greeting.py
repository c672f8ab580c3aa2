from __future__ import annotations

from typing import Any

import pytest
from flwr.app import RecordDict

from moretta.server.grid.greeting import greet_enrolled, greet_virtual
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire

ENROLLED = {1: "site-1", 2: "site-2", 3: "site-3"}


def test_virtual_sites_are_known_by_the_names_they_give(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node))
    assert sorted(greet_virtual(exchange, 3)) == exchange.sites == ["site-1", "site-2", "site-3"]
    assert exchange.nodes == {1: "site-1", 2: "site-2", 3: "site-3"}


def _arriving(exchange: Any, after_seconds: float) -> None:
    sleep = exchange.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if exchange.clock() > after_seconds:
            exchange.grid.nodes = [1, 2, 3]

    exchange.sleep = sleeping


def test_the_greeting_waits_for_late_sites(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=1)
    _arriving(exchange, 30.0)
    assert sorted(greet_virtual(exchange, 3)) == ["site-1", "site-2", "site-3"]


def test_the_greeting_ends_at_the_deadline(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=2, deadline=5.0)
    with pytest.raises(RunError, match=r"2 sites came within 5 s; expected 3; to fix it: start the missing"):
        greet_virtual(exchange, 3)
    assert 5.0 < exchange.clock() < 6.0


def test_a_virtual_site_that_does_not_greet_back_ends_the_run_with_its_cause(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node) if node != 2 else "out of memory")
    with pytest.raises(RunError, match=r"1 of 3 sites did not answer the greeting: .*out of memory"):
        greet_virtual(exchange, 3)


def test_two_sites_of_one_name_are_refused(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(1))
    with pytest.raises(RunError, match="two sites have one name"):
        greet_virtual(exchange, 3)


@pytest.mark.parametrize("name", [["site-1"], "../site", "", None, "a" * 200, 7])
def test_a_name_that_could_be_no_folder_is_refused(fake_exchange: Any, name: Any) -> None:
    content = RecordDict({wire.CONFIG: wire.json_config(site=name, versions={}, digest="0" * 64)})
    exchange = fake_exchange(lambda node, message: content, nodes=1)
    with pytest.raises(RunError, match=r"no Hello: site: (String should match|Input should be a valid string)"):
        greet_virtual(exchange, 1)


class Greeted:
    """What came of greeting enrolled sites."""

    def __init__(self, exchange: Any, *, min_sites: int = 1, wait_seconds: float = 60.0) -> None:
        self.out: dict[str, str] = {}
        self.seen: list[tuple[int, int]] = []
        self.answers = greet_enrolled(
            exchange,
            ENROLLED,
            wait_seconds=wait_seconds,
            min_sites=min_sites,
            left_out=self.out.__setitem__,
            seen=lambda here, every: self.seen.append((here, every)),
        )


def test_enrolled_sites_have_the_names_of_the_registry(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node))
    greeted = Greeted(exchange)
    assert sorted(greeted.answers) == exchange.sites == ["site-1", "site-2", "site-3"]
    assert greeted.out == {}


def test_a_site_that_takes_another_s_name_is_left_out_and_named(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(1))
    greeted = Greeted(exchange)
    assert list(greeted.answers) == exchange.sites == ["site-1"]
    assert greeted.out == {"site-2": "it takes itself for 'site-1'", "site-3": "it takes itself for 'site-1'"}


def test_a_node_that_is_not_planned_is_not_greeted(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=5)
    Greeted(exchange)
    assert sorted(m.metadata.dst_node_id for m in exchange.grid.sent) == [1, 2, 3]


def test_the_study_starts_as_soon_as_all_enrolled_sites_are_there(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=2)
    _arriving(exchange, 20.0)
    greeted = Greeted(exchange)
    assert len(greeted.answers) == 3
    assert exchange.clock() < 23.0
    assert greeted.seen == [(2, 3), (3, 3)]


def test_a_site_that_stays_away_is_left_out_when_the_wait_is_over(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=2)
    greeted = Greeted(exchange, wait_seconds=30.0)
    assert greeted.out == {"site-3": "it was not there within 30 s"}
    assert 30.0 < exchange.clock() < 32.0


def test_a_site_that_is_lost_while_it_is_greeted_is_greeted_again(fake_exchange: Any, hello: Any, reply: Any) -> None:
    exchange = fake_exchange(lambda node, message: reply(1, "Node Unavailable", code=5) if node == 1 else hello(node))
    sleep = exchange.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        exchange.grid.answer = lambda node, message: hello(node)

    exchange.sleep = sleeping
    assert len(Greeted(exchange).answers) == 3


def test_a_revoked_site_is_not_waited_for(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=2)
    exchange.gone = lambda: {"site-3": "its enrollment was revoked"}
    greeted = Greeted(exchange)
    assert greeted.out == {"site-3": "its enrollment was revoked"}
    assert exchange.clock() < 2.0


def test_too_few_sites_end_the_run_and_say_why_each_is_missing(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node, failure="RefusedError"), nodes=2)
    with pytest.raises(RunError, match=r"0 of 3 enrolled sites take part .*site-1: RefusedError") as caught:
        Greeted(exchange, min_sites=2, wait_seconds=5.0)
    assert "site-3: it was not there within 5 s" in caught.value.message
