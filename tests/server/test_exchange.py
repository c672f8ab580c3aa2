from __future__ import annotations

from typing import Any

import pytest
from flwr.app import RecordDict

from moretta.shared import wire
from moretta.shared.errors import RunError


def _content(site: str) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(asked=site)})


@pytest.fixture
def greeted(fake_exchange: Any, hello: Any) -> Any:
    """An exchange with three sites that answers the next question as told."""

    def make(answer: Any, **grid: Any) -> Any:
        exchange = fake_exchange(lambda node, message: hello(node), **grid)
        exchange.greet(3)
        exchange.grid.answer = answer
        return exchange

    return make


def test_sites_are_known_by_the_names_they_give(greeted: Any) -> None:
    exchange = greeted(None)
    assert exchange.sites == ["site-1", "site-2", "site-3"]
    assert exchange.nodes == {1: "site-1", 2: "site-2", 3: "site-3"}


def test_the_greeting_waits_for_late_sites(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=1)
    sleep = exchange.sleep

    def arriving(seconds: float) -> None:
        sleep(seconds)
        if exchange.clock() > 30:
            exchange.grid.nodes = [1, 2, 3]

    exchange.sleep = arriving
    assert sorted(exchange.greet(3)) == ["site-1", "site-2", "site-3"]


def test_the_greeting_ends_at_the_deadline(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node), nodes=2, deadline=5.0)
    with pytest.raises(RunError, match=r"2 sites came within 5 s; expected 3; to fix it: start the missing"):
        exchange.greet(3)
    assert 5.0 < exchange.clock() < 6.0


def test_a_site_that_does_not_greet_back_ends_the_run_with_its_cause(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(node) if node != 2 else "out of memory")
    with pytest.raises(RunError, match=r"1 of 3 sites did not answer the greeting: .*out of memory"):
        exchange.greet(3)


def test_two_sites_of_one_name_are_refused(fake_exchange: Any, hello: Any) -> None:
    exchange = fake_exchange(lambda node, message: hello(1))
    with pytest.raises(RunError, match="two sites have one name"):
        exchange.greet(3)


@pytest.mark.parametrize("name", [["site-1"], "../site", "", None, "a" * 200, 7])
def test_a_name_that_could_be_no_folder_is_refused(fake_exchange: Any, name: Any) -> None:
    content = RecordDict({wire.CONFIG: wire.json_config(site=name)})
    exchange = fake_exchange(lambda node, message: content, nodes=1)
    with pytest.raises(RunError, match="name"):
        exchange.greet(1)


def test_every_site_is_asked_its_own_question_and_answers_come_in_order_of_names(greeted: Any, hello: Any) -> None:
    exchange = greeted(lambda node, message: hello(node), order=lambda replies: replies[::-1])
    answers = exchange.ask(wire.RELEASE, _content)
    assert [a.site for a in answers] == ["site-1", "site-2", "site-3"]
    assert [wire.from_config(m.content, "asked") for m in exchange.grid.sent[-3:]] == exchange.sites
    assert {m.metadata.message_type for m in exchange.grid.sent[-3:]} == {wire.RELEASE}
    assert exchange.grid.timeouts == [60.0, 60.0]


def test_only_the_sites_named_are_asked(greeted: Any, hello: Any) -> None:
    exchange = greeted(lambda node, message: hello(node))
    assert [a.site for a in exchange.ask(wire.FETCH, _content, sites=["site-3"])] == ["site-3"]
    assert exchange.grid.sent[-1].metadata.dst_node_id == 3


def test_a_silent_site_is_a_named_failure(greeted: Any, hello: Any) -> None:
    exchange = greeted(lambda node, message: hello(node) if node != 2 else None)
    answers = exchange.ask(wire.RELEASE, _content)
    assert [a.content is None for a in answers] == [False, True, False]
    assert answers[1].failure == "no answer within 60 s"


def test_the_first_answer_counts_where_a_site_answers_twice(greeted: Any, hello: Any) -> None:
    exchange = greeted(lambda node, message: [hello(node, n=1), hello(node, n=2)])
    answers = exchange.ask(wire.RELEASE, _content)
    assert len(answers) == 3
    assert {wire.from_config(a.content, "n") for a in answers} == {1}


def test_a_failure_that_a_site_tells_is_passed_on_by_kind(greeted: Any, hello: Any) -> None:
    exchange = greeted(lambda node, message: hello(node, failure="CorpusError", code=4))
    assert {a.failure for a in exchange.ask(wire.RELEASE, _content)} == {"CorpusError (see the site's own log)"}


def test_an_error_of_flower_is_a_named_failure(greeted: Any) -> None:
    exchange = greeted(lambda node, message: "the process died")
    for answer in exchange.ask(wire.RELEASE, _content):
        assert answer.content is None
        assert "the process died" in answer.failure


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({wire.CONFIG: wire.arrays_to_record({})})])
def test_an_answer_without_a_config_is_a_failure(greeted: Any, content: RecordDict) -> None:
    exchange = greeted(lambda node, message: content)
    answers = exchange.ask(wire.RELEASE, _content)
    assert all(a.content is None or wire.CONFIG in a.content for a in answers)


def test_an_answer_of_an_unknown_node_or_of_one_not_asked_is_passed_over(greeted: Any, hello: Any, reply: Any) -> None:
    exchange = greeted(lambda node, message: None)
    exchange.grid.strangers = [reply(99, hello(1)), reply(3, hello(3))]
    answers = exchange.ask(wire.RELEASE, _content, sites=["site-1"])
    assert [(a.site, a.content) for a in answers] == [("site-1", None)]
