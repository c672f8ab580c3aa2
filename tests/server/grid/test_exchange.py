from __future__ import annotations

from typing import Any

import httpx
import pytest
from flwr.app import RecordDict
from pydantic import ConfigDict

from moretta.server.grid.inquiry import MAX_TRIES, LinkLostError
from moretta.shared.core.errors import RunError
from moretta.shared.messages import Message, wire


class Anything(Message):
    """Whatever has the name of a site in it: what is tested here is how it comes, not what it says."""

    model_config = ConfigDict(extra="allow")
    site: str


def _content(site: str) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(asked=site)})


@pytest.fixture
def three(fake_exchange: Any, hello: Any, greeted: Any) -> Any:
    """An exchange with three sites that answers the next question as told."""

    def make(answer: Any, **grid: Any) -> Any:
        exchange = greeted(fake_exchange(lambda node, message: hello(node), **grid), 3)
        exchange.grid.answer = answer
        exchange.responses = dict.fromkeys((wire.RELEASE, wire.FETCH), Anything)
        return exchange

    return make


def test_every_site_is_asked_its_own_question_and_answers_come_in_order_of_names(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node), order=lambda replies: replies[::-1])
    answers = exchange.ask(wire.RELEASE, _content)
    assert [a.site for a in answers] == ["site-1", "site-2", "site-3"]
    assert [wire.from_config(m.content, "asked") for m in exchange.grid.sent[-3:]] == exchange.sites
    assert {m.metadata.message_type for m in exchange.grid.sent[-3:]} == {wire.RELEASE}


def test_only_the_sites_named_are_asked(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node))
    assert [a.site for a in exchange.ask(wire.FETCH, _content, sites=["site-3", "nobody"])] == ["site-3"]
    assert exchange.grid.sent[-1].metadata.dst_node_id == 3


def test_a_silent_site_is_a_named_failure_at_the_deadline_and_not_later(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node) if node != 2 else None)
    before = exchange.clock()
    answers = exchange.ask(wire.RELEASE, _content, deadline_seconds=7.0)
    assert [a.content is None for a in answers] == [False, True, False]
    assert (answers[1].failure, answers[1].lost) == ("no answer within 7 s", True)
    assert 7.0 <= exchange.clock() - before < 8.0


def test_the_first_answer_counts_where_a_site_answers_twice(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: [hello(node, n=1), hello(node, n=2)])
    answers = exchange.ask(wire.RELEASE, _content)
    assert len(answers) == 3
    assert {wire.from_config(a.content, "n") for a in answers} == {1}


def test_a_failure_that_a_site_tells_is_passed_on_by_kind_and_is_no_loss(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node, failure="CorpusError", code=4))
    answers = exchange.ask(wire.RELEASE, _content)
    assert {(a.failure, a.lost) for a in answers} == {("CorpusError (see the site's own log)", False)}


def test_an_error_of_flower_is_a_named_failure(three: Any) -> None:
    exchange = three(lambda node, message: "the app raised")
    for answer in exchange.ask(wire.RELEASE, _content):
        assert answer.content is None
        assert "the app raised" in answer.failure
        assert not answer.lost


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({wire.CONFIG: wire.arrays_to_record({})})])
def test_an_answer_without_a_config_is_a_failure(three: Any, content: RecordDict) -> None:
    exchange = three(lambda node, message: content)
    answers = exchange.ask(wire.RELEASE, _content)
    assert all(a.content is None or wire.CONFIG in a.content for a in answers)


def test_an_answer_of_an_unknown_node_or_of_one_not_asked_is_passed_over(three: Any, hello: Any, reply: Any) -> None:
    exchange = three(lambda node, message: None)
    exchange.grid.strangers = [reply(99, hello(1)), reply(3, hello(3))]
    answers = exchange.ask(wire.RELEASE, _content, sites=["site-1"])
    assert [(a.site, a.content) for a in answers] == [("site-1", None)]


def test_a_reply_in_a_site_s_name_from_another_node_is_passed_over_and_the_site_s_own_counts(
    three: Any, hello: Any, reply: Any
) -> None:
    exchange = three(lambda node, message: [reply(3, hello(3)), hello(1)] if node == 1 else hello(node))
    told: list[str] = []
    exchange.note = told.append
    answers = exchange.ask(wire.RELEASE, _content)
    assert [wire.from_config(a.content, "site") for a in answers] == ["site-1", "site-2", "site-3"]
    assert told == ["site-1: a reply in its name came from another node, and was passed over"]


def _comes_back(exchange: Any, node: int, after_seconds: float, then: Any) -> None:
    """The node is away, and at a later time there again, answering as told."""
    exchange.grid.away.add(node)
    sleep, answer = exchange.sleep, exchange.grid.answer

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if exchange.clock() > after_seconds:
            exchange.grid.away.discard(node)

    exchange.sleep = sleeping
    exchange.grid.answer = lambda n, message: then(n) if n == node else answer(n, message)


def test_a_lost_site_is_done_without_where_the_study_says_continue(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node))
    _comes_back(exchange, 2, 20.0, hello)
    answers = exchange.ask(wire.RELEASE, _content)
    assert (answers[1].content, answers[1].lost) == (None, True)
    assert "Node Unavailable" in answers[1].failure
    assert exchange.clock() < 2.0


def test_a_lost_site_is_asked_again_when_it_is_back_where_the_study_says_retry(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node))
    exchange.on_lost_site = "retry"
    told: list[str] = []
    exchange.note = told.append
    _comes_back(exchange, 2, 20.0, hello)
    answers = exchange.ask(wire.RELEASE, _content)
    assert all(a.content is not None for a in answers)
    assert 20.0 < exchange.clock() < 23.0
    assert told == ["site-2: it was lost (Node Unavailable); it is asked again when it is back"]


def test_a_lost_site_that_stays_away_is_given_up_at_the_deadline_with_the_cause(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node))
    exchange.on_lost_site = "retry"
    exchange.grid.away.add(2)
    answers = exchange.ask(wire.RELEASE, _content, deadline_seconds=30.0)
    assert (answers[1].failure, answers[1].lost) == ("it was lost (Node Unavailable)", True)
    assert 30.0 <= exchange.clock() < 32.0


def test_a_process_that_dies_on_a_question_is_asked_a_few_times_and_no_more(three: Any, hello: Any, reply: Any) -> None:
    crashed = 8
    exchange = three(lambda node, message: hello(node) if node != 2 else reply(2, "ClientApp stopped", code=crashed))
    exchange.on_lost_site = "retry"
    before = len(exchange.grid.sent)
    answers = exchange.ask(wire.RELEASE, _content)
    assert answers[1].lost
    assert "ClientApp stopped" in answers[1].failure
    assert len(exchange.grid.sent) - before == 2 + MAX_TRIES


@pytest.mark.parametrize("policy", ["continue", "retry"])
def test_a_site_that_was_started_anew_while_it_was_asked_is_asked_again(three: Any, hello: Any, policy: Any) -> None:
    exchange = three(lambda node, message: None if node == 2 else hello(node))
    exchange.on_lost_site = policy
    sleep = exchange.sleep

    def restarting(seconds: float) -> None:
        sleep(seconds)
        if exchange.clock() > 5.0:
            exchange.grid.started[2] = "later"
            exchange.grid.answer = lambda node, message: hello(node)

    exchange.sleep = restarting
    answers = exchange.ask(wire.RELEASE, _content)
    assert all(a.content is not None for a in answers)
    assert exchange.clock() < 10.0


def test_a_site_that_is_gone_for_good_is_not_asked_and_not_waited_for(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node))
    exchange.gone = lambda: {"site-2": "its enrollment was revoked"}
    before = len(exchange.grid.sent)
    answers = exchange.ask(wire.RELEASE, _content)
    assert (answers[1].failure, answers[1].lost) == ("its enrollment was revoked", True)
    assert len(exchange.grid.sent) - before == 2


def test_a_site_that_is_revoked_while_it_is_asked_is_waited_for_no_longer(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: hello(node) if node != 2 else None)
    exchange.on_lost_site = "retry"
    exchange.gone = lambda: {"site-2": "its enrollment was revoked"} if exchange.clock() > 4.0 else {}
    answers = exchange.ask(wire.RELEASE, _content)
    assert (answers[1].failure, answers[1].lost) == ("its enrollment was revoked", True)
    assert 4.0 < exchange.clock() < 6.0


def test_after_an_outage_sites_have_time_to_come_back_before_they_count_as_lost(three: Any, hello: Any) -> None:
    """While Flower's SuperLink is down no site can show that it lives: when it is up again all seem to be away."""
    exchange = three(lambda node, message: hello(node))
    _comes_back(exchange, 2, 90.0, hello)

    def outage() -> None:
        exchange.grid.on_pull = lambda: None
        exchange.clock.sleep(40.0)

    exchange.grid.on_pull = outage
    answers = exchange.ask(wire.RELEASE, _content, deadline_seconds=600.0)
    assert all(a.content is not None for a in answers)


def test_an_answer_that_was_lost_in_an_outage_is_asked_for_again(three: Any, hello: Any) -> None:
    exchange = three(lambda node, message: None if node == 2 else hello(node))

    def outage() -> None:
        exchange.grid.on_pull = lambda: None
        exchange.clock.sleep(6.0)
        exchange.grid.answer = lambda node, message: hello(node, again=True)

    exchange.grid.on_pull = outage
    before = len(exchange.grid.sent)
    answers = exchange.ask(wire.RELEASE, _content, deadline_seconds=600.0)
    assert all(a.content is not None for a in answers)
    assert wire.from_config(answers[1].content, "again")
    assert len(exchange.grid.sent) - before == 4
    assert exchange.clock() < 40.0


def test_a_site_that_is_there_and_silent_is_asked_again_now_and_then(three: Any, hello: Any) -> None:
    """Flower's SuperNode gives up an answer that it could not send, and stays online as if nothing had been."""
    exchange = three(lambda node, message: None if node == 2 else hello(node))
    sleep = exchange.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if exchange.clock() > 130.0:
            exchange.grid.answer = lambda node, message: hello(node)

    exchange.sleep = sleeping
    before = len(exchange.grid.sent)
    answers = exchange.ask(wire.RELEASE, _content, deadline_seconds=3600.0)
    assert all(a.content is not None for a in answers)
    assert len(exchange.grid.sent) - before == 3 + 2  # after two minutes, and after eight more
    assert 600.0 < exchange.clock() < 610.0


def test_a_superlink_that_is_gone_ends_the_question_with_an_error_of_its_own(three: Any, hello: Any) -> None:
    def refuse() -> None:
        raise httpx.ConnectError("refused")

    exchange = three(lambda node, message: hello(node))
    exchange.grid.on_pull = refuse
    with pytest.raises(LinkLostError, match="SuperLink was lost"):
        exchange.ask(wire.RELEASE, _content)
    assert issubclass(LinkLostError, RunError)
