"""The steward's review is made without a network, without a loss on the ledger, under the policy in force."""

from __future__ import annotations

import html
import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.policy import PolicyError
from moretta.client.settings import deployed_site
from moretta.client.site_home import SiteHome
from moretta.deploy.cli.main import run
from moretta.deploy.site import review as reviewing
from moretta.deploy.site.review import review_study
from moretta.shared.core.errors import ExitCode, StudyError
from moretta.shared.features.public_speech import PublicVoice
from moretta.shared.release import open_release
from moretta.shared.study.schema import Study, parse_study

CONTENT = {"name": "two clinics", "face": {"enabled": False}, "voice": {"codebook_size": 16}, "split": {"folds": 2}}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Fails whatever opens a connection."""
    if "site" in request.fixturenames:
        request.getfixturevalue("site")

    def refused(*arguments: Any) -> Any:
        raise AssertionError("a connection was opened")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)


PUBLIC = PublicVoice(
    mean=np.zeros(13, np.float32),
    std=np.full(13, 20, np.float32),
    codebook=np.random.default_rng(1).standard_normal((16, 13)).astype(np.float32),
).to_arrays()


@pytest.fixture(autouse=True)
def _quick_public_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of real public speech take a quarter of a minute to make."""
    monkeypatch.setattr(reviewing, "prepare_public", lambda study, *notify: PUBLIC)


@pytest.fixture
def study() -> Study:
    return parse_study(CONTENT)


def everything(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_the_release_is_the_one_that_would_be_made_and_costs_nothing(
    site: SiteHome, study: Study, tmp_path: Path
) -> None:
    before = everything(site.root)
    made = review_study(site, study, tmp_path / "review")
    assert everything(site.root) == before  # not the ledger, not a pseudonym key, nothing
    release = open_release(tmp_path / "review" / "release")
    assert release.statement == made.release.statement
    assert len(made.held_out) == 2
    real = make_release(deployed_site(site.root), study, PUBLIC)
    ours, theirs = (r.statement.model_dump(exclude={"anonymizers"}) for r in (release, real))
    assert ours == theirs
    assert [a.parameters for a in release.statement.anonymizers] == [a.parameters for a in real.statement.anonymizers]
    assert {c.speaker for c in release.clips}.isdisjoint(c.speaker for c in real.clips)  # pseudonyms of its own
    assert Ledger(site.root / "ledger.jsonl").entries("release")


def test_the_page_shows_clips_before_and_after_and_loads_nothing(site: SiteHome, study: Study, tmp_path: Path) -> None:
    review_study(site, study, tmp_path / "review", shown=3)
    page = (tmp_path / "review" / "review.html").read_text(encoding="utf-8")
    assert page.count("<audio") == 6
    assert page.count('src="data:audio/wav;base64,') == 6
    assert not re.search(r"(src|href)=\"(?!data:)|<script|http://|https://|url\(", page)
    assert "default-src 'none'" in html.unescape(page)
    for words in ("two clinics", study.digest(), "48 of 4 speakers", "Up to epsilon 8", "epsilon guaranteed"):
        assert words in page
    for name in ("1001_", str(site.root), "AudioWAV"):
        assert name not in page
    assert len(list((tmp_path / "review" / "media").glob("*.wav"))) == 48
    for path in (tmp_path / "review", tmp_path / "review" / "review.html"):
        assert path.stat().st_mode & 0o077 == 0


def test_pictures_are_shown_before_and_after(site: SiteHome, tiny_corpus: Path, tmp_path: Path) -> None:
    from moretta.shared.data.media import write_video

    rng = np.random.default_rng(1)
    (tiny_corpus / "VideoFlash").mkdir()
    for clip in ("1001_IEO_ANG_XX", "1002_TIE_SAD_XX"):
        frames = rng.integers(0, 255, (5, 96, 128, 3), np.uint8)  # 1 s, beside 0.6 s of sound
        write_video(tiny_corpus / "VideoFlash" / f"{clip}.mp4", frames, 5.0, None)
    study = parse_study({**CONTENT, "face": {"anonymizer": "pixelate"}})
    review_study(site, study, tmp_path / "review", shown=48)
    page = (tmp_path / "review" / "review.html").read_text(encoding="utf-8")
    assert page.count('alt="original" src="data:image/png') == 8
    assert page.count('alt="released" src="data:image/png') == 8


def test_a_modality_that_the_site_has_not_is_reported(site: SiteHome, tmp_path: Path) -> None:
    study = parse_study({**CONTENT, "face": {"enabled": True}})
    review_study(site, study, tmp_path / "review")
    page = (tmp_path / "review" / "review.html").read_text(encoding="utf-8")
    assert "no clip of the corpus has video" in page
    assert study.digest() in page


def test_texts_of_the_study_are_escaped(site: SiteHome, study: Study, tmp_path: Path) -> None:
    (site.policy_file).write_text(
        'anonymizers = ["<b>x</b>", "mfcc-quantizer"]\nwithout_guarantee = ["mfcc-quantizer"]\n'
    )
    review_study(site, study, tmp_path / "review")
    assert "<b>x</b>" not in (tmp_path / "review" / "review.html").read_text(encoding="utf-8")


def test_a_study_that_would_be_refused_is_refused_here_with_its_rule(
    site: SiteHome, study: Study, tmp_path: Path
) -> None:
    site.policy_file.write_text("max_training_epsilon = 1.0\n")
    with pytest.raises(PolicyError, match="max_training_epsilon"):
        review_study(site, study, tmp_path / "review")
    assert not (tmp_path / "review").exists()


def test_a_site_need_not_be_enrolled_to_look(site: SiteHome, study: Study, tmp_path: Path) -> None:
    site.identity_file.unlink()
    assert review_study(site, study, tmp_path / "review").release.statement.site == "this-site"


def test_a_folder_with_something_in_it_is_left_alone(site: SiteHome, study: Study, tmp_path: Path) -> None:
    (tmp_path / "review").mkdir()
    (tmp_path / "review" / "kept").write_text("x")
    with pytest.raises(StudyError, match="not an empty folder"):
        review_study(site, study, tmp_path / "review")
    assert (tmp_path / "review" / "kept").read_text() == "x"


def test_the_command_says_where_to_look_and_what_the_study_is(
    site: SiteHome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "study.toml"
    path.write_text("[face]\nenabled = false\n[voice]\ncodebook_size = 16\n")
    command = ["site", "review", str(path), "--home", str(site.root), "--clips", "1"]
    assert run([*command, "--out", str(tmp_path / "one")]) == ExitCode.OK
    assert "review.html" in capsys.readouterr().out
    assert run([*command, "--out", str(tmp_path / "two"), "--json"]) == ExitCode.OK
    content = json.loads(capsys.readouterr().out)
    assert content["statement"]["clips"] == 48
    assert re.fullmatch(r"[0-9a-f]{64}", content["study"])
    site.policy_file.write_text(f'studies = ["{"ab" * 32}"]\n')
    assert run([*command, "--out", str(tmp_path / "three")]) == ExitCode.REFUSED
