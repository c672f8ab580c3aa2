"""Stage release: every site anonymizes its clips; the server fetches, checks and keeps what they released."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from moretta.server.stages.approval import not_approved
from moretta.server.stages.run_context import Run, RunSite
from moretta.server.stages.site_failures import noting_failure_of
from moretta.server.stages.statement_checks import check_announced, check_others, check_statement, note_epsilons
from moretta.shared.core.errors import ReleaseError
from moretta.shared.messages import wire
from moretta.shared.messages.responses import Announced, Fetched
from moretta.shared.release import Release, open_release

if TYPE_CHECKING:
    from flwr.app import RecordDict

_DISK_SHARE = 0.9
"""Of the free disk that releases may fill."""


def collect_releases(run: Run, rates: dict[str, float]) -> None:
    """Ask every site for its release and stream the files to disk, chunk by chunk.

    Raises:
        RunError: fewer sites than the study asks for have released.
    """
    from flwr.app import RecordDict

    arrays, approval = not_approved(run), {"approval": run.approval} if run.approval else {}
    content = RecordDict({wire.CONFIG: wire.study_config(run.study, **approval)})
    if arrays:
        content[wire.ARRAYS] = wire.arrays_to_record(arrays)
    responses = run.ask("release", wire.RELEASE, lambda _: content)
    failures: dict[str, str] = {}
    announced: dict[str, Announced] = {}
    for response in responses:
        with noting_failure_of(response.site, failures):
            announced[response.site] = response.of(Announced)
    pending = _accepted(run, announced, failures)
    _download_all(run, pending, failures)
    for site, download in sorted(pending.items()):
        if site not in failures:
            with noting_failure_of(site, failures):
                _keep(run, site, open_release(download.folder))
    for site, why in sorted(failures.items()):
        run.warn(f"{site} released nothing: {why}")
        run.miss(site, "release", why)
    run.require_sites(sorted(run.releases), "release", "; ".join(f"{s}: {w}" for s, w in sorted(failures.items())[:3]))
    rates["clips"] = sum(r.clips for r in run.sites.values())
    _note_absent(run)
    _note_faces(run)


def _accepted(run: Run, announced: Mapping[str, Announced], failures: dict[str, str]) -> dict[str, _Download]:
    """What is fetched: small releases first, as long as the disk has room, so that a huge one costs no other site."""
    folder = run.folder / "server" / "releases"
    folder.mkdir(parents=True, exist_ok=True)
    left = int(shutil.disk_usage(folder).free * _DISK_SHARE)
    pending: dict[str, _Download] = {}
    for site, statement in sorted(announced.items(), key=lambda item: (sum(item[1].files.values()), item[0])):
        size = sum(statement.files.values())
        if size > left:
            failures[site] = f"it announced a release of {size} bytes, and the server's disk has room for {left}"
            continue
        left -= size
        pending[site] = _Download(folder / site, statement.files)
        _note_announced(run.sites[site], statement)
    return pending


def _note_announced(record: RunSite, announced: Announced) -> None:
    """What a site tells beside its release: training clips, whom it holds out, and whether its clips are synthetic."""
    record.training = {str(kind): count for kind, count in announced.training.items()}
    record.held_out = tuple(sorted(announced.held_out))
    record.synthetic = announced.synthetic


class _Download:
    """The files of one site's release on their way to the server's disk."""

    def __init__(self, folder: Path, sizes: Mapping[str, int]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._left = list(_in_parts(sizes))
        self._requested: list[wire.FilePart] = []

    @property
    def finished(self) -> bool:
        return not self._left

    def request(self) -> list[wire.FilePart]:
        """The next parts, as many as one message carries."""
        self._requested, size = [], 0
        for part in self._left:
            size += part.length
            if self._requested and size > wire.CHUNK_BYTES:
                break
            self._requested.append(part)
        return self._requested

    def take(self, fetched: Fetched) -> None:
        """Write the parts that were asked for.

        Raises:
            ReleaseError: they are not those, or they were damaged on the way.
        """
        chunk = fetched.chunk
        expected = sum(part.length for part in self._requested)
        if len(chunk) != expected or hashlib.sha256(chunk).hexdigest() != fetched.sha256:
            raise ReleaseError(f"damaged parts of {self._requested[0].file}", expected=f"{expected} intact bytes")
        start = 0
        for part in self._requested:
            with (self.folder / part.file).open("ab" if part.offset else "wb") as file:
                file.write(chunk[start : start + part.length])
            start += part.length
        self._left = self._left[len(self._requested) :]


def _in_parts(sizes: Mapping[str, int]) -> Iterator[wire.FilePart]:
    for name, size in sorted(sizes.items()):
        for offset in range(0, size, wire.CHUNK_BYTES) or (0,):
            yield wire.FilePart(name, offset, min(wire.CHUNK_BYTES, size - offset))


def _download_all(run: Run, pending: dict[str, _Download], failures: dict[str, str]) -> None:
    from flwr.app import RecordDict

    def request(site: str) -> RecordDict:
        return RecordDict({wire.CONFIG: wire.study_config(run.study, parts=pending[site].request())})

    while open_sites := [s for s, d in pending.items() if not d.finished and s not in failures]:
        for response in run.ask("release", wire.FETCH, request, sites=open_sites):
            with noting_failure_of(response.site, failures):
                pending[response.site].take(response.of(Fetched))


def _keep(run: Run, site: str, release: Release) -> None:
    if release.statement.site != site:
        raise ReleaseError(f"a release of {release.statement.site!r} from {site!r}", expected="the site's own")
    if release.statement.study != run.study.digest():
        raise ReleaseError("a release that was made for another study", expected="this study's digest")
    check_statement(run.study, release)
    check_others(run, release)
    _check_arrays(run, release)
    record = run.sites[site]
    check_announced(run, site, release)
    note_epsilons(run, site, release)
    record.clips, record.speakers = len(release.clips), len({clip.speaker for clip in release.clips})
    record.dropped = dict(release.statement.dropped)
    for reason, count in release.damaged.items():
        record.dropped[reason] = record.dropped.get(reason, 0) + count
        run.warn(f"{site} released {count} arrays that cannot be used ({reason})")
    if not release.clips:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(record.dropped.items()))
        raise ReleaseError(f"a release without a clip (dropped: {reasons or 'none'})", expected="at least one")
    run.releases[site] = release


def _check_arrays(run: Run, release: Release) -> None:
    """Read every array once, on arrival: damaged ones are counted, and all must have the size that the study asks for.

    Raises:
        ReleaseError: MFCC or pictures of another size, which no model could take together with those of other sites.
    """
    for modality in run.study.modalities:
        statement = release.anonymizer(modality)
        sizes = {_size(statement.form, array) for _, array in release.arrays(modality)} if statement else set()
        expected = run.study.voice.coefficients if statement is not None and statement.form == "mfcc" else None
        if len(sizes) > 1 or (expected is not None and sizes - {(), (expected,)}):
            raise ReleaseError(f"{modality} arrays of the sizes {sorted(sizes)}", expected="the size of the study")


def _size(form: str, array: npt.NDArray[Any]) -> tuple[int, ...]:
    if form == "code":
        return array.shape
    return () if form in ("tokens", "waveform", "code-tokens") else array.shape[1:]


def _note_absent(run: Run) -> None:
    for modality in ("voice", "face"):
        if modality not in run.study.modalities:
            run.absent[modality] = run.plan.absent.get(modality, "the study does not ask for it")
        elif not any(getattr(c, modality) is not None for r in run.releases.values() for c in r.clips):
            run.absent[modality] = f"no clip of the corpus has a usable {'sound' if modality == 'voice' else 'video'}"
    missing = [m for m in ("voice", "face") if m in run.absent]
    if missing:
        run.absent["fused"] = f"fusion needs both modalities; absent: {', '.join(missing)}"
        if run.study.fusion.kind == "learned":
            run.absent["learned"] = run.absent["fused"]


def _note_faces(run: Run) -> None:
    counts = Counter[str]()
    for release in run.releases.values():
        statement = release.anonymizer("face")
        counts.update(statement.counts if statement else {})
    if counts["frames_without_face"]:
        run.warn(
            f"no face was found in {counts['frames_without_face']} of {counts['frames']} pictures "
            f"({counts['clips_without_face']} clips show none at all): their centre was taken"
        )
    if counts["frames_with_other_faces"]:
        run.warn(
            f"{counts['frames_with_other_faces']} of {counts['frames']} pictures show somebody else's face, too: "
            "the largest over the clip was taken"
        )
