"""`moretta site review`: what would be released for a study, made here, for the steward to see and hear.

Nothing leaves, no network is used, and nothing is spent: the release is made in a folder of its own, with noise of its
own, under the policy that holds for the real one. The page is one HTML file that loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from moretta.client.clips.release import make_release
from moretta.client.clips.site_clips import site_corpus
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings, of_folder
from moretta.client.site_home import SiteHome
from moretta.client.training.data import held_out
from moretta.client.transport.identity import Identity
from moretta.deploy.runtime.anonymize_folder import write_media
from moretta.deploy.runtime.planning import check_names, without_missing
from moretta.deploy.runtime.run_folder import Notify, prepare_folder
from moretta.deploy.site.approvals import attack_lines
from moretta.deploy.site.review_media import data_address, original_pictures, original_sound, pictures, png, wav
from moretta.shared.core.array_types import Array
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import HomeError
from moretta.shared.core.printable import shown
from moretta.shared.core.workers import limit_threads
from moretta.shared.data.clips import Clip, Corpus
from moretta.shared.features.voice_forms import is_code
from moretta.shared.release import Release, ReleasedClip
from moretta.shared.release.anonymizer import prepare_public
from moretta.shared.study.schema import Study

PAGE = "review.html"
KEY_FILE = "pseudonym.key"
Arrays = dict[str, Array]


@dataclass(frozen=True, slots=True)
class Review:
    """A release that was made to be looked at, and the clips it was made of."""

    study: Study
    policy: Policy
    release: Release
    held_out: frozenset[str]
    """Pseudonyms of speakers who are held out."""
    absent: dict[str, str]
    """Modalities that the study wants and the site has not, with the reason."""
    originals: dict[str, Clip]
    """Original of each released clip, by the clip's pseudonym."""
    corpus: Corpus
    """Corpus that holds these clips; it may hold other sites' clips, too."""
    settings: SiteSettings
    """Settings of the site, with a folder that this review alone uses."""


def steward_settings(home: SiteHome) -> SiteSettings:
    """The settings of a site whose steward looks at its clips; it need not be enrolled."""
    site, policy = home.read(), Policy.load(home.policy_file)
    policy.check_noise(seeded=site.simulated_seed is not None)
    try:
        name = Identity.load(home.identity_file).site
    except HomeError:
        name = "this-site"
    return of_folder(home, name=name, policy=policy)


def make_review(
    settings: SiteSettings,
    study: Study,
    out: Path,
    *,
    arrays: Arrays | None = None,
    own_names: bool = False,
    approved: bool = False,
    step: Callable[[int, int], None] | None = None,
    notify: Notify = lambda _: None,
) -> Review:
    """Make the release in `out/release`, of every clip that the site may read; see `review_study`.

    Args:
        own_names: use the pseudonyms that the site's own ledger and releases have, so that costs can be compared. The
            key then lies in `out`, which must be inside the site's folder.
        approved: of the clips that the steward has approved alone, where the study is approved. Needs `own_names`.
    """
    limit_threads(1)
    check_names(study)
    assert settings.policy is not None
    settings.policy.check_study(study)
    prepare_folder(out)
    out.chmod(0o700)
    scratch = replace(settings, home=out / ".site")
    if own_names and settings.simulated_seed is None:
        settings.pseudonyms()
        scratch.home.mkdir(mode=0o700)
        write_atomic(scratch.home / KEY_FILE, (settings.home / KEY_FILE).read_bytes(), mode=0o600)
        if approved and (settings.home / "approvals").is_dir():
            shutil.copytree(settings.home / "approvals", scratch.home / "approvals")
    corpus, clips = site_corpus(scratch, study)
    there, absent = without_missing(corpus, study)  # no autoencoder is made ready for a site that has no video
    public = prepare_public(there, notify) if arrays is None else arrays
    release = make_release(scratch, there, public, folder=out / "release", progress=step)
    names = scratch.names(there)
    return Review(
        study=study,
        policy=settings.policy,
        release=release,
        held_out=frozenset(map(names.released, held_out(scratch, there, release.folder))),
        absent=absent,
        originals={names.released(names.key.clip(clip.name)): clip for clip in clips},
        corpus=corpus,
        settings=scratch,
    )


def review_study(
    home: SiteHome,
    study: Study,
    out: Path,
    *,
    arrays: Arrays | None = None,
    shown: int = 6,
    step: Callable[[int, int], None] | None = None,
    notify: Notify = lambda _: None,
) -> Review:
    """Make the release in `out/release`, media of all of it in `out/media`, and the page `out/review.html`.

    Args:
        home: the site's folder; it need not be enrolled.
        out: a new or empty folder, to be kept as closed as the clips are: the page holds some of them.
        arrays: the public ones that were offered; None makes them here, where they may differ from the coordinator's.
        notify: gets lines about what comes before the first clip.

    Raises:
        PolicyError: this study would be refused.
    """
    review = make_review(steward_settings(home), study, out, arrays=arrays, step=step, notify=notify)
    write_media(review.release, out / "media", fps=study.face.fps)
    (out / PAGE).write_text(_page(review, out / "media", shown), encoding="utf-8")
    (out / PAGE).chmod(0o600)
    return review


def templates() -> Environment:
    """Templates for pages of the steward: every text is escaped and printable."""
    environment = Environment(
        autoescape=True, finalize=shown, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = lambda value: "no finite guarantee" if value is None else f"{value:,.4g}"
    return environment


def _page(review: Review, media: Path, count: int) -> str:
    """The whole page; the content security policy allows data of the page alone."""
    style = asset("review.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    clips = review.release.clips
    files = {p.name: p.stat().st_size for p in sorted(review.release.folder.iterdir())}
    return (
        templates()
        .from_string(asset("review.html"))
        .render(
            style=Markup(style),  # noqa: S704 - our own file
            security=f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{digest}'",
            study=review.study,
            digest=review.study.digest(),
            statement=review.release.statement,
            files=files,
            total=sum(files.values()),
            absent=review.absent,
            held_out=len(review.held_out),
            emotions=Counter(str(clip.emotion) for clip in clips),
            line=json.dumps(clips[0].model_dump(mode="json"), indent=1) if clips else "",
            policy=review.policy.model_dump(),
            attacks=attack_lines(review.study, review.policy),
            clips=[_before_and_after(review, clip, media) for clip in _chosen(clips, count)],
        )
    )


def _chosen(clips: tuple[ReleasedClip, ...], count: int) -> list[ReleasedClip]:
    """Clips of as many speakers and emotions as there are, in an order that only their pseudonyms give."""
    seen: Counter[str] = Counter()
    left = list(clips)
    chosen: list[ReleasedClip] = []
    while left and len(chosen) < count:
        clip = min(left, key=lambda c: (seen[c.speaker], seen[str(c.emotion)], c.clip))
        left.remove(clip)
        chosen.append(clip)
        seen.update((clip.speaker, str(clip.emotion)))
    return chosen


def _before_and_after(review: Review, clip: ReleasedClip, media: Path) -> dict[str, Any]:
    """One clip as it is and as it would be released. Media are `data:` addresses."""
    original = review.originals[clip.clip]
    face = review.release.anonymizer("face")
    is_seen = face is not None and not is_code(face.form)
    shown_faces = review.release.arrays("face") if is_seen else ()
    released = next((a for c, a in shown_faces if c.clip == clip.clip), None)
    samples = original_sound(original)
    sound = media / f"{clip.clip}.wav"
    return {
        "released": clip,
        "original_sound": "" if samples is None else data_address("audio/wav", wav(samples)),
        "released_sound": data_address("audio/wav", sound.read_bytes()) if sound.exists() else "",
        "original_pictures": _pictures(original_pictures(original, fps=review.study.face.fps)),
        "released_pictures": _pictures(released),
    }


def _pictures(frames: Array | None) -> list[str]:
    return [data_address("image/png", png(picture)) for picture in pictures(frames)]


def asset(name: str) -> str:
    """The text of a file beside this module."""
    return resources.files("moretta.deploy.site").joinpath(name).read_text(encoding="utf-8")
