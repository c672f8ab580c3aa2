"""The review desk over a real socket: its link alone grants it, no other page can use it; what is approved leaves."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from enrolled import enrolled
from flwr.app import RecordDict
from requested import POLICY, RequestStage

from moretta.client.offers import Decision, Offers
from moretta.deploy.cli.review import _reviewed
from moretta.deploy.site import desk as desk_module
from moretta.deploy.site.approvals import offer_facts
from moretta.deploy.site.desk import Desk
from moretta.deploy.site.desk_pages import serve
from moretta.shared.core.errors import HomeError
from moretta.shared.core.pseudonym import PseudonymKey
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.messages import wire
from moretta.shared.release import open_release

PUBLIC = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()


@dataclass
class Browser:
    """A client that can lie about everything."""

    link: str
    desk: Desk
    ended: threading.Thread
    found: list[Decision | None]
    cookie: str = ""
    place: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return urlsplit(self.link).netloc

    def send(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=20)
        sent = {"Host": self.host, "Sec-Fetch-Site": "none" if method == "GET" else "same-origin"}
        if method == "POST":
            sent |= {"Origin": f"http://{self.host}", "Content-Type": "application/x-www-form-urlencoded"}
        if self.cookie:
            sent["Cookie"] = self.cookie
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value:
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content

    def enter(self) -> None:
        status, headers, _ = self.send("GET", urlsplit(self.link).path)
        assert status == 303
        self.cookie, self.place = headers["set-cookie"].partition(";")[0], headers["location"]

    def page(self, name: str = "") -> str:
        status, _, content = self.send("GET", self.place + name)
        assert status == 200
        return content.decode()

    def post(self, to: str, **fields: Any) -> tuple[int, dict[str, str], bytes]:
        token = re.search(r'name="token" value="([^"]+)"', self.page())
        assert token is not None
        return self.send("POST", self.place + to, urlencode({"token": token[1], **fields}, doseq=True))

    def press(self, button: str, **fields: Any) -> str:
        """Press a button of the page and get the next one."""
        status, headers, _ = self.post("choose", do=button, **fields)
        assert status == 303
        return self.page(headers["location"].partition("#")[0].removeprefix("."))

    def finish(self, decision: str) -> Decision:
        chosen = self.desk.chosen
        assert self.post("decide", decision=decision, chosen=chosen)[0] == 303
        self.ended.join(timeout=20)
        assert not self.ended.is_alive()
        assert self.found[0] is not None
        return self.found[0]


@pytest.fixture
def asked(tmp_path: Path, tiny_corpus: Path) -> RequestStage:
    home = enrolled(tmp_path / "site", tiny_corpus, policy=POLICY, held_out=("1001",))
    made = RequestStage(home, tiny_corpus, PUBLIC)
    made.study = made.study.with_changes(audit__at_sites=("campplus",))
    return made


@pytest.fixture
def browser(asked: RequestStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Browser]:
    monkeypatch.setattr(desk_module, "_LAST_SECONDS", 0.1)
    offer = Offers(asked.home.root).keep(asked.study.without_paths(), asked.public)
    with _reviewed(asked.home, offer) as (made, choice):
        desk = Desk(offer, offer_facts(asked.home, offer), made, choice, made.release.folder.parent)
        found: list[Decision | None] = []
        links: list[str] = []
        ready = threading.Event()

        def opened(link: str) -> None:
            links.append(link)
            ready.set()

        thread = threading.Thread(target=lambda: found.append(serve(desk, ready=opened)), daemon=True)
        thread.start()
        assert ready.wait(20)
        yield Browser(links[0], desk, thread, found)
        desk.at_end()
        thread.join(timeout=20)


def release(asked: RequestStage, digest: str) -> dict[str, Any]:
    config = wire.study_config(asked.study, approval=digest)
    return asked.call(wire.RELEASE, RecordDict({wire.CONFIG: config}))


def test_attacks_on_originals_are_named_before_the_choice_and_before_the_decision(browser: Browser) -> None:
    browser.enter()
    for page in (browser.page(), browser.page("confirm")):
        assert "attacks its own originals with campplus" in page
        assert "your policy refuses this part (allow_attacks)" in page
    assert "campplus" not in browser.page("confirm?refuse=1")


def test_only_the_link_grants_the_desk_and_only_once(browser: Browser) -> None:
    way_in = urlsplit(browser.link).path
    for path in ("/", "/enter/", "/enter/guess", f"{way_in}x", way_in[:-1]):
        assert browser.send("GET", path)[0] == 403
    foreign = {"Host": f"evil.example:{urlsplit(browser.link).port}"}, {"Host": "localhost"}, {"Origin": "http://x"}
    for headers in (*foreign, {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}):
        assert browser.send("GET", way_in, **headers)[0] in (403, 421)  # and the link is not used up by it
    assert browser.send("HEAD", way_in)[0] == 405
    status, headers, _ = browser.send("GET", way_in)
    assert status == 303
    place = headers["location"]
    assert f"Path={place}" in headers["set-cookie"] and "samesite=strict" in headers["set-cookie"].casefold()
    assert "HttpOnly" in headers["set-cookie"]
    assert browser.send("GET", way_in)[0] == 403
    for cookie in ("", "moretta-desk=", "moretta-desk=guess", 'moretta-desk="', "moretta-desk"):
        assert browser.send("GET", place, Cookie=cookie)[0] == 403


def test_a_port_that_is_taken_is_an_error_with_a_way_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(HomeError, match="--port"):
            serve(cast(Desk, None), port=taken.getsockname()[1], ready=print)


def test_cookies_of_other_servers_on_the_machine_shut_no_steward_out(browser: Browser) -> None:
    browser.enter()
    own = browser.cookie
    for cookies in (f'prefs={{"a": 1}}; {own}', f"flag; {own}", f"{own}; moretta-desk=guess", f"moretta-desk=; {own}"):
        assert browser.send("GET", browser.place, Cookie=cookies)[0] == 200
    assert browser.send("GET", browser.place, Cookie=f"{own}x; x{own}")[0] == 403


def test_requests_of_other_pages_and_other_names_are_refused(browser: Browser) -> None:
    browser.enter()
    assert "clips may be released" not in browser.page()
    place, token = browser.place, re.findall(r'name="token" value="([^"]+)"', browser.page())[0]
    form = urlencode({"token": token, "do": "exclude:0"})
    hostile: tuple[dict[str, str], ...] = (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{(urlsplit(browser.link).port or 0) + 1}"},
        {"Origin": ""},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1"},
        {"Host": f"LOCALHOST:{urlsplit(browser.link).port}"},
        {"Cookie": "moretta-desk=guess"},
    )
    for headers in hostile:
        for to in ("choose", "decide"):
            assert browser.send("POST", place + to, form, **headers)[0] in (403, 421), headers
    for start in ("", "token=&", "token=guess&", f"token={token[:-1]}&"):
        body = f"{start}do=refuse"
        assert browser.send("POST", place + "choose", body)[0] == 403
        assert browser.send("POST", place + "decide", body.replace("do", "decision"))[0] == 403
    assert browser.send("POST", place + "choose", form + "&x=" + "y" * 300_000)[0] == 403
    assert browser.send("POST", place + "choose", form + "&x" * 2_000)[0] == 403
    assert browser.send("PUT", place, form)[0] == 405
    assert browser.desk.choice.excluded == set() and browser.desk.decision is None
    assert browser.send("POST", place + "choose", form)[0] == 303  # the same without a lie
    assert len(browser.desk.choice.excluded) == 12


def test_no_path_leads_out_and_no_answer_may_be_framed_kept_or_read_elsewhere(browser: Browser) -> None:
    browser.enter()
    outside = ("../policy.toml", "%2e%2e/%2e%2e/etc/passwd", "clip/0/before/../../../policy.toml", "//etc/passwd")
    wrong = ("clip/48/before/sound.wav", "clip/-1/before/sound.wav", "clip/0/besides/sound.wav", "clip/0/before/x.wav")
    for path in (*outside, *wrong, "clip/0/before/%2e%2e%2fpolicy.toml", "clip/0/after/pictures.png", "review.css"):
        assert browser.send("GET", browser.place + path)[0] in (403, 404), path
    for path in (browser.place, browser.place + "style.css", browser.place + "clip/0/after/sound.wav", "/", "/nowhere"):
        _, headers, _ = browser.send("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "script-src" not in policy
        assert (headers["x-frame-options"], headers["cache-control"]) == ("DENY", "no-store")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers and "server" not in headers


def test_every_clip_is_there_before_and_after(browser: Browser) -> None:
    browser.enter()
    found: set[str] = set()
    for number in range(browser.desk.pages):
        text = browser.press(f"page:{number}", shown=[], exclude=[])
        found |= set(re.findall(r'src="(clip/\d+/(?:before|after)/[a-z.-]+)"', text))
        assert not re.search(r"<script|https?://|url\(|onclick", text)
    assert len(found) == 48 * 4  # sound and spectrogram of each, on both sides
    for path in sorted(found)[:8]:
        status, _, content = browser.send("GET", browser.place + path)
        assert status == 200 and content[:4] in (b"RIFF", b"\x89PNG")
    status, _, content = browser.send("GET", browser.place + "clip/3/before/sound.wav", Range="bytes=0-43")
    assert (status, len(content)) == (206, 44)  # a player can jump


def test_what_was_approved_on_the_desk_is_exactly_what_is_released(browser: Browser, asked: RequestStage) -> None:
    assert "has not approved" in asked.train()["failure"]
    browser.enter()
    rows = browser.desk.choice.rows
    person, ticked = rows[0].clip.speaker, next(n for n, row in enumerate(rows) if row.clip.speaker == "1003")
    assert "12 clips excluded" in browser.press("exclude:0")
    assert "no clip matches" in browser.press("exclude:rule", key="emotion=", value="JOY")
    browser.press("exclude:rule", key="emotion=", value="SAD", shown=[str(ticked)], exclude=[str(ticked)])
    confirm = browser.press("confirm")
    assert "29 of 48 clips" in confirm
    stale = browser.desk.chosen
    browser.press("include:rule", key="emotion=", value="SAD")
    assert browser.post("decide", decision="approve", chosen=stale)[0] == 303
    assert browser.desk.decision is None and "changed meanwhile" in browser.page()
    browser.press("exclude:rule", key="emotion=", value="SAD")
    decision = browser.finish("approve")
    assert (decision.decision, decision.clips, decision.excluded) == ("approved", 29, 19)
    expected = {row.clip.name for row in rows if row.clip.speaker != person and row.clip.label != "SAD"}
    expected.discard(rows[ticked].clip.name)
    answer = release(asked, decision.digest)
    assert answer["statement"]["clips"] == 29 and answer["statement"]["dropped"] == {}
    key = PseudonymKey.load_or_create(asked.home.root / "pseudonym.key").in_study(asked.study.digest())
    assert {clip.clip for clip in open_release(asked.folder).clips} == {key.clip(name) for name in expected}
    log = (asked.home.root / "approvals.jsonl").read_text("utf-8")
    assert "_IEO_" not in log and '"excluded":19' in log


def test_a_study_that_was_refused_on_the_desk_gets_nothing(browser: Browser, asked: RequestStage) -> None:
    browser.enter()
    assert "Refuse this study?" in browser.press("refuse")
    decision = browser.finish("refuse")
    assert decision.decision == "refused"
    assert "has not approved" in release(asked, decision.digest)["failure"]
    assert not asked.folder.exists()


def test_more_is_excluded_than_the_policy_lets_go(browser: Browser, asked: RequestStage) -> None:
    browser.enter()
    for number in range(4):
        browser.press(f"exclude:{number}")
    assert "the rule min_clips" in browser.press("confirm")
    assert browser.post("decide", decision="approve", chosen=browser.desk.chosen)[0] == 303
    assert browser.desk.decision is None and "0 of 48 clips" in browser.page()
    assert list(asked.home.root.glob("approvals/*")) == []


def test_the_desk_costs_nothing_and_leaves_nothing_behind(asked: RequestStage) -> None:
    offer = Offers(asked.home.root).keep(asked.study.without_paths(), asked.public)
    with _reviewed(asked.home, offer) as (made, choice):
        assert made.release.statement.clips == len(choice.included) == 48
        assert all(row.pseudonym for row in choice.rows)
    left = {path.name for path in asked.home.root.iterdir()}
    assert not any(name.startswith((".review", "ledger", "release", "sent", "speakers")) for name in left)
