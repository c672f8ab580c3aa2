"""Stage release: every site anonymizes its clips; the server fetches, checks and keeps what they released."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from flwr.app import RecordDict

from moretta.server.grid.site_grid import SiteGrid, noting_failure_of
from moretta.server.stages.approval import not_approved
from moretta.server.stages.run import Approval, Arrays, Releases, RunContext, SiteFacts
from moretta.server.stages.statement_checks import check_release
from moretta.shared.core.errors import ReleaseError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import Announced, Fetched
from moretta.shared.release import open_release

_DISK_SHARE = 0.9
"""Share of the free disk that releases may fill."""


def collect_releases(
    context: RunContext, grid: SiteGrid, public: Arrays, approval: Approval, code_units: Mapping[str, int]
) -> Releases:
    """Request a release from every site and stream the files to disk, chunk by chunk.

    The sites anonymize by the public arrays, and release at least the units that they trained a code on. Raises
    RunError where fewer sites than the study needs have released.
    """
    releases = Releases()
    failures: dict[str, str] = {}
    announced = _announced(context, grid, public, approval, failures)
    downloads = _accepted(context.folder / "server" / "releases", announced, failures)
    _download(context, grid, downloads, failures)
    for site, download in sorted(downloads.items()):
        facts = releases.facts[site] = SiteFacts(
            training={str(kind): count for kind, count in announced[site].training.items()},
            held_out=tuple(sorted(announced[site].held_out)),
            synthetic=announced[site].synthetic,
        )
        if site not in failures:
            with noting_failure_of(site, failures):
                release = open_release(download.folder)
                check_release(context, public, releases, site, release, code_units=code_units.get(site, 0))
                for reason, count in release.damaged.items():
                    context.warn(f"{site} released {count} arrays that cannot be used ({reason})")
                if not release.clips:
                    dropped = ", ".join(f"{reason} {count}" for reason, count in sorted(facts.dropped.items()))
                    raise ReleaseError(
                        f"a release without a clip (dropped: {dropped or 'none'})", expected="at least one"
                    )
                releases.kept[site] = release
    context.leave_out(failures, "release", "released nothing")
    context.require_sites(releases.kept, len(grid.sites), "release", failures)
    _note_faces(context, releases)
    return releases


def _announced(
    context: RunContext, grid: SiteGrid, public: Arrays, approval: Approval, failures: dict[str, str]
) -> dict[str, Announced]:
    """Request releases. Public arrays that the sites have not approved are sent again."""
    digest = {"approval": approval.digest} if approval.digest else {}
    content = RecordDict({wire.CONFIG: wire.study_config(context.study, **digest)})
    if arrays := not_approved(public, approval):
        content[wire.ARRAYS] = wire.arrays_to_record(arrays)
    announced: dict[str, Announced] = {}
    deadline = context.study.deadline_seconds("release")
    for response in grid.request(wire.RELEASE, lambda _: content, deadline_seconds=deadline):
        with noting_failure_of(response.site, failures):
            announced[response.site] = response.of(Announced)
    return announced


def absent_outputs(context: RunContext, releases: Releases) -> dict[str, str]:
    """The outputs that no model can have, with the reason: a modality that nobody released, and what needs both."""
    absent: dict[str, str] = {}
    for modality in ("voice", "face"):
        if modality not in context.study.modalities:
            absent[modality] = context.plan.absent.get(modality, "the study does not ask for it")
        elif modality not in releases.modalities:
            absent[modality] = f"no clip of the corpus has a usable {'sound' if modality == 'voice' else 'video'}"
    if absent:
        absent["fused"] = f"fusion needs both modalities; absent: {', '.join(absent)}"
        if context.study.fusion.kind == "learned":
            absent["learned"] = absent["fused"]
    return absent


class _Download:
    """The files of one site's release on their way to the server's disk."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.left = [
            wire.FilePart(name, offset, min(wire.CHUNK_BYTES, size - offset))
            for name, size in sorted(sizes.items())
            for offset in range(0, size, wire.CHUNK_BYTES) or (0,)
        ]
        self._requested: list[wire.FilePart] = []

    def next_parts(self) -> list[wire.FilePart]:
        """The next missing parts, as many as one message carries."""
        self._requested, size = [], 0
        for part in self.left:
            size += part.length
            if self._requested and size > wire.CHUNK_BYTES:
                break
            self._requested.append(part)
        return self._requested

    def take(self, fetched: Fetched) -> None:
        """Write the parts that were requested; raises ReleaseError where these are others, or damaged."""
        chunk = fetched.chunk
        expected = sum(part.length for part in self._requested)
        if len(chunk) != expected or hashlib.sha256(chunk).hexdigest() != fetched.sha256:
            raise ReleaseError(f"damaged parts of {self._requested[0].file}", expected=f"{expected} intact bytes")
        start = 0
        for part in self._requested:
            with (self.folder / part.file).open("ab" if part.offset else "wb") as file:
                file.write(chunk[start : start + part.length])
            start += part.length
        self.left = self.left[len(self._requested) :]


def _accepted(folder: Path, announced: Mapping[str, Announced], failures: dict[str, str]) -> dict[str, _Download]:
    """Downloads of small releases first, as long as the disk has room, so that a huge one costs no other site."""
    folder.mkdir(parents=True, exist_ok=True)
    left = int(shutil.disk_usage(folder).free * _DISK_SHARE)
    downloads: dict[str, _Download] = {}
    for size, site in sorted((sum(release.files.values()), site) for site, release in announced.items()):
        if size > left:
            failures[site] = f"it announced a release of {size} bytes, and the server's disk has room for {left}"
            continue
        left -= size
        downloads[site] = _Download(folder / site, announced[site].files)
    return downloads


def _download(context: RunContext, grid: SiteGrid, downloads: dict[str, _Download], failures: dict[str, str]) -> None:
    deadline = context.study.deadline_seconds("release")

    def content(site: str) -> RecordDict:
        return RecordDict({wire.CONFIG: wire.study_config(context.study, parts=downloads[site].next_parts())})

    while open_sites := [site for site, download in downloads.items() if download.left and site not in failures]:
        for response in grid.request(wire.FETCH, content, sites=open_sites, deadline_seconds=deadline):
            with noting_failure_of(response.site, failures):
                downloads[response.site].take(response.of(Fetched))


def _note_faces(context: RunContext, releases: Releases) -> None:
    counts = Counter[str]()
    for release in releases.kept.values():
        statement = release.anonymizer("face")
        counts.update(statement.counts if statement else {})
    if counts["frames_without_face"]:
        context.warn(
            f"no face was found in {counts['frames_without_face']} of {counts['frames']} pictures "
            f"({counts['clips_without_face']} clips show none at all): their centre was taken"
        )
    if counts["frames_with_other_faces"]:
        context.warn(
            f"{counts['frames_with_other_faces']} of {counts['frames']} pictures show somebody else's face, too: "
            "the largest over the clip was taken"
        )
