from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict
from pydantic import ConfigDict

from moretta.server.grid.pending_request import MAX_TRIES
from moretta.server.grid.site_grid import SuperLinkLostError
from moretta.shared.core.errors import RunError
from moretta.shared.messages import wire
from moretta.shared.messages.message import Message


class Anything(Message):
    """Whatever has the name of a site in it: what is tested here is how it comes, not what it says."""

    model_config = ConfigDict(extra="allow")
    site: str


def _content(site: str) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.json_config(requested=site)})


@pytest.fixture
def three(fake_site_grid: Any, hello: Any, hellos: Any) -> Any:
    """A site grid with three sites that responds to the next request as set."""

    def make(response: Any, **grid: Any) -> Any:
        site_grid = hellos(fake_site_grid(lambda node, message: hello(node), **grid), 3)
        site_grid.grid.response = response
        site_grid.responses = dict.fromkeys((wire.RELEASE, wire.FETCH), Anything)
        return site_grid

    return make


def test_every_site_gets_its_own_request_and_responses_come_in_order_of_names(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node), order=lambda replies: replies[::-1])
    responses = site_grid.request(wire.RELEASE, _content)
    assert [a.site for a in responses] == ["site-1", "site-2", "site-3"]
    assert [wire.from_config(m.content, "requested") for m in site_grid.grid.sent[-3:]] == site_grid.sites
    assert {m.metadata.message_type for m in site_grid.grid.sent[-3:]} == {wire.RELEASE}


def test_only_the_listed_sites_get_the_request(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node))
    assert [a.site for a in site_grid.request(wire.FETCH, _content, sites=["site-3", "nobody"])] == ["site-3"]
    assert site_grid.grid.sent[-1].metadata.dst_node_id == 3


def test_a_silent_site_is_a_named_failure_at_the_deadline_and_not_later(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node) if node != 2 else None)
    before = site_grid.clock()
    responses = site_grid.request(wire.RELEASE, _content, deadline_seconds=7.0)
    assert [a.content is None for a in responses] == [False, True, False]
    assert (responses[1].failure, responses[1].lost) == ("no response within 7 s", True)
    assert 7.0 <= site_grid.clock() - before < 8.0


def test_the_first_response_counts_where_a_site_responds_twice(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: [hello(node, n=1), hello(node, n=2)])
    responses = site_grid.request(wire.RELEASE, _content)
    assert len(responses) == 3
    assert {wire.from_config(a.content, "n") for a in responses} == {1}


def test_each_site_s_time_and_bytes_are_counted_and_a_repeated_request_counts_twice(three: Any, hello: Any) -> None:
    large = ArrayRecord({"w": Array(np.zeros(1000, np.float32))})
    site_grid = three(lambda node, message: RecordDict({**hello(node), "arrays": large}) if node == 1 else hello(node))
    site_grid.on_lost_site = "retry"
    _comes_back(site_grid, 2, 20.0, hello)
    site_grid.traffic.clear()
    site_grid.request(wire.RELEASE, _content)
    first, second, third = (site_grid.traffic[site] for site in site_grid.sites)
    assert first.received - third.received >= 4000
    assert second.sent == 2 * third.sent > 0
    assert third.seconds < 2.0
    assert 20.0 < second.seconds < 23.0


def test_a_silent_site_has_the_time_that_was_waited_for_it_and_no_bytes(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node) if node != 2 else None)
    site_grid.traffic.clear()
    site_grid.request(wire.RELEASE, _content, deadline_seconds=7.0)
    assert site_grid.traffic["site-2"].received == 0
    assert 7.0 <= site_grid.traffic["site-2"].seconds < 8.0


def test_a_failure_that_a_site_states_is_passed_on_by_kind_and_is_no_loss(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node, failure="CorpusError", code=4))
    responses = site_grid.request(wire.RELEASE, _content)
    assert {(a.failure, a.lost) for a in responses} == {("CorpusError (see the site's own log)", False)}


def test_an_error_of_flower_is_a_named_failure(three: Any) -> None:
    site_grid = three(lambda node, message: "the app raised")
    for response in site_grid.request(wire.RELEASE, _content):
        assert response.content is None
        assert "the app raised" in response.failure
        assert not response.lost


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({wire.CONFIG: wire.arrays_to_record({})})])
def test_a_response_without_a_config_is_a_failure(three: Any, content: RecordDict) -> None:
    site_grid = three(lambda node, message: content)
    responses = site_grid.request(wire.RELEASE, _content)
    assert all(a.content is None or wire.CONFIG in a.content for a in responses)


def test_a_response_of_an_unknown_node_or_of_one_not_requested_is_passed_over(
    three: Any, hello: Any, reply: Any
) -> None:
    site_grid = three(lambda node, message: None)
    site_grid.grid.strangers = [reply(99, hello(1)), reply(3, hello(3))]
    responses = site_grid.request(wire.RELEASE, _content, sites=["site-1"])
    assert [(a.site, a.content) for a in responses] == [("site-1", None)]


def test_a_reply_in_a_site_s_name_from_another_node_is_passed_over_and_the_site_s_own_counts(
    three: Any, hello: Any, reply: Any
) -> None:
    site_grid = three(lambda node, message: [reply(3, hello(3)), hello(1)] if node == 1 else hello(node))
    reported: list[str] = []
    site_grid.note = reported.append
    responses = site_grid.request(wire.RELEASE, _content)
    assert [wire.from_config(a.content, "site") for a in responses] == ["site-1", "site-2", "site-3"]
    assert reported == ["site-1: a reply in its name came from another node, and was passed over"]


def _comes_back(site_grid: Any, node: int, after_seconds: float, then: Any) -> None:
    """The node is away, and at a later time there again, responding as set."""
    site_grid.grid.away.add(node)
    sleep, response = site_grid.sleep, site_grid.grid.response

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if site_grid.clock() > after_seconds:
            site_grid.grid.away.discard(node)

    site_grid.sleep = sleeping
    site_grid.grid.response = lambda n, message: then(n) if n == node else response(n, message)


def test_a_lost_site_is_done_without_where_the_study_says_continue(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node))
    _comes_back(site_grid, 2, 20.0, hello)
    responses = site_grid.request(wire.RELEASE, _content)
    assert (responses[1].content, responses[1].lost) == (None, True)
    assert "Node Unavailable" in responses[1].failure
    assert site_grid.clock() < 2.0


def test_a_lost_site_gets_the_request_again_when_it_is_back_where_the_study_says_retry(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node))
    site_grid.on_lost_site = "retry"
    reported: list[str] = []
    site_grid.note = reported.append
    _comes_back(site_grid, 2, 20.0, hello)
    responses = site_grid.request(wire.RELEASE, _content)
    assert all(a.content is not None for a in responses)
    assert 20.0 < site_grid.clock() < 23.0
    assert reported == ["site-2: it was lost (Node Unavailable); the request is sent again when it is back"]


def test_a_lost_site_that_stays_away_is_given_up_at_the_deadline_with_the_cause(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node))
    site_grid.on_lost_site = "retry"
    site_grid.grid.away.add(2)
    responses = site_grid.request(wire.RELEASE, _content, deadline_seconds=30.0)
    assert (responses[1].failure, responses[1].lost) == ("it was lost (Node Unavailable)", True)
    assert 30.0 <= site_grid.clock() < 32.0


def test_a_process_that_dies_on_a_request_gets_it_a_few_times_and_no_more(three: Any, hello: Any, reply: Any) -> None:
    crashed = 8
    site_grid = three(lambda node, message: hello(node) if node != 2 else reply(2, "ClientApp stopped", code=crashed))
    site_grid.on_lost_site = "retry"
    before = len(site_grid.grid.sent)
    responses = site_grid.request(wire.RELEASE, _content)
    assert responses[1].lost
    assert "ClientApp stopped" in responses[1].failure
    assert len(site_grid.grid.sent) - before == 2 + MAX_TRIES


@pytest.mark.parametrize("policy", ["continue", "retry"])
def test_a_site_that_was_started_anew_during_a_request_gets_it_again(three: Any, hello: Any, policy: Any) -> None:
    site_grid = three(lambda node, message: None if node == 2 else hello(node))
    site_grid.on_lost_site = policy
    sleep = site_grid.sleep

    def restarting(seconds: float) -> None:
        sleep(seconds)
        if site_grid.clock() > 5.0:
            site_grid.grid.started[2] = "later"
            site_grid.grid.response = lambda node, message: hello(node)

    site_grid.sleep = restarting
    responses = site_grid.request(wire.RELEASE, _content)
    assert all(a.content is not None for a in responses)
    assert site_grid.clock() < 10.0


def test_a_site_that_is_gone_for_good_gets_no_request_and_is_not_waited_for(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node))
    site_grid.gone = lambda: {"site-2": "its enrollment was revoked"}
    before = len(site_grid.grid.sent)
    responses = site_grid.request(wire.RELEASE, _content)
    assert (responses[1].failure, responses[1].lost) == ("its enrollment was revoked", True)
    assert len(site_grid.grid.sent) - before == 2


def test_a_site_that_is_revoked_during_a_request_is_waited_for_no_longer(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: hello(node) if node != 2 else None)
    site_grid.on_lost_site = "retry"
    site_grid.gone = lambda: {"site-2": "its enrollment was revoked"} if site_grid.clock() > 4.0 else {}
    responses = site_grid.request(wire.RELEASE, _content)
    assert (responses[1].failure, responses[1].lost) == ("its enrollment was revoked", True)
    assert 4.0 < site_grid.clock() < 6.0


def test_after_an_outage_sites_have_time_to_come_back_before_they_count_as_lost(three: Any, hello: Any) -> None:
    """While Flower's SuperLink is down no site can show that it lives: when it is up again all seem to be away."""
    site_grid = three(lambda node, message: hello(node))
    _comes_back(site_grid, 2, 90.0, hello)

    def outage() -> None:
        site_grid.grid.on_pull = lambda: None
        site_grid.clock.sleep(40.0)

    site_grid.grid.on_pull = outage
    responses = site_grid.request(wire.RELEASE, _content, deadline_seconds=600.0)
    assert all(a.content is not None for a in responses)


def test_a_response_that_was_lost_in_an_outage_is_requested_again(three: Any, hello: Any) -> None:
    site_grid = three(lambda node, message: None if node == 2 else hello(node))

    def outage() -> None:
        site_grid.grid.on_pull = lambda: None
        site_grid.clock.sleep(6.0)
        site_grid.grid.response = lambda node, message: hello(node, again=True)

    site_grid.grid.on_pull = outage
    before = len(site_grid.grid.sent)
    responses = site_grid.request(wire.RELEASE, _content, deadline_seconds=600.0)
    assert all(a.content is not None for a in responses)
    assert wire.from_config(responses[1].content, "again")
    assert len(site_grid.grid.sent) - before == 4
    assert site_grid.clock() < 40.0


def test_a_site_that_is_there_and_silent_gets_the_request_again_now_and_then(three: Any, hello: Any) -> None:
    """Flower's SuperNode gives up a response that it could not send, and stays online as before."""
    site_grid = three(lambda node, message: None if node == 2 else hello(node))
    sleep = site_grid.sleep

    def sleeping(seconds: float) -> None:
        sleep(seconds)
        if site_grid.clock() > 130.0:
            site_grid.grid.response = lambda node, message: hello(node)

    site_grid.sleep = sleeping
    before = len(site_grid.grid.sent)
    responses = site_grid.request(wire.RELEASE, _content, deadline_seconds=3600.0)
    assert all(a.content is not None for a in responses)
    assert len(site_grid.grid.sent) - before == 3 + 2  # after two minutes, and after eight more
    assert 600.0 < site_grid.clock() < 610.0


def test_a_superlink_that_is_gone_ends_the_question_with_an_error_of_its_own(three: Any, hello: Any) -> None:
    def refuse() -> None:
        raise httpx.ConnectError("refused")

    site_grid = three(lambda node, message: hello(node))
    site_grid.grid.on_pull = refuse
    with pytest.raises(SuperLinkLostError, match="SuperLink was lost"):
        site_grid.request(wire.RELEASE, _content)
    assert issubclass(SuperLinkLostError, RunError)
