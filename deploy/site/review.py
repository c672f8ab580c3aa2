"""`moretta site review`: what would be released for a study, made here, for the steward to see and hear.

Nothing leaves, no network is used, and nothing is spent: the release is made in a folder of its own, with noise of its
own, under the policy that holds for the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from moretta.client.clips.release import make_release
from moretta.client.clips.site_clips import site_corpus
from moretta.client.clips.study_pseudonyms import StudyPseudonyms
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings, of_folder
from moretta.client.site_home import SiteHome
from moretta.client.training.data import held_out
from moretta.client.transport.identity import Identity
from moretta.deploy.cli.anonymize_folder import write_media
from moretta.deploy.cli.runs import Notify, check_names, prepare_folder
from moretta.deploy.simulate import without_missing
from moretta.shared.core.errors import HomeError
from moretta.shared.core.threads import limit_threads
from moretta.shared.data.clips import Clip
from moretta.shared.models.public_arrays import public_arrays
from moretta.shared.release import Release
from moretta.shared.study.schema import Study

PAGE = "review.html"
Arrays = dict[str, npt.NDArray[Any]]
Step = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Review:
    """A release that was made to be looked at, and the clips it was made of."""

    study: Study
    policy: Policy
    release: Release
    held_out: frozenset[str]
    """Pseudonyms."""
    absent: dict[str, str]
    """Modalities that the study asks for and the site has not, with the reason."""
    originals: dict[str, Clip]
    """By the pseudonym of the released clip."""


def review_study(
    home: SiteHome,
    study: Study,
    out: Path,
    *,
    arrays: Arrays | None = None,
    shown: int = 6,
    step: Step | None = None,
    notify: Notify | None = None,
) -> Review:
    """Make the release in `out/release`, media of all of it in `out/media`, and the page `out/review.html`.

    Args:
        home: the site's folder; it need not be enrolled.
        study: as the coordinator sent it.
        out: a new or empty folder, to be kept as closed as the clips are: the page holds some of them.
        arrays: the public ones that were offered; None makes them here, as the coordinator may or may not.
        shown: so many clips are on the page.
        step: called with clips done and in all.
        tell: called with lines about what comes before the first clip.

    Raises:
        PolicyError: this study would be refused.
        MorettaError: the folder, the clips or the study cannot be used.
    """
    from moretta.deploy.site.review_page import render

    limit_threads(1)
    check_names(study)
    settings = _settings(home)
    if settings.policy is not None:
        settings.policy.check_study(study)
    prepare_folder(out)
    out.chmod(0o700)
    scratch = replace(settings, home=out / ".site")
    corpus, clips = site_corpus(scratch, study)
    there, absent = without_missing(corpus, study)  # no autoencoder is made ready for a site that has no video
    public = arrays
    if public is None:
        public = public_arrays(there) if notify is None else public_arrays(there, notify)
    release = make_release(scratch, there, public, folder=out / "release", progress=step)
    write_media(release, out / "media", fps=study.face.fps)
    review = Review(
        study=study,
        policy=settings.policy or Policy(),
        release=release,
        held_out=frozenset(map(scratch.names(there).released, held_out(scratch, there, release.folder))),
        absent=absent,
        originals=_originals(scratch.names(there), clips),
    )
    page = render(review, out / "media", shown=shown)
    (out / PAGE).write_text(page, encoding="utf-8")
    (out / PAGE).chmod(0o600)
    return review


def _settings(home: SiteHome) -> SiteSettings:
    said, policy = home.read(), Policy.load(home.policy_file)
    policy.check_noise(seeded=said.simulated_seed is not None)
    try:
        name = Identity.load(home.identity_file).site
    except HomeError:
        name = "this-site"
    return of_folder(home, name=name, policy=policy)


def _originals(names: StudyPseudonyms, clips: Sequence[Clip]) -> dict[str, Clip]:
    return {names.released(names.key.clip(clip.name)): clip for clip in clips}
