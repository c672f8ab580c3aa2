"""`moretta site doctor`: checks everything that a site needs, here, at its releases and at the server.

Each finding has its fix. The order is one in which the first fault explains the later ones.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from moretta.client.clips.provenance import find_changes
from moretta.client.clips.site_clips import Withdrawn, without
from moretta.client.clips.stored_state import stored_provenances
from moretta.client.clips.withdrawal import stored_studies
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings, of_folder
from moretta.client.site_home import REVIEW_PREFIX, SiteFile, SiteHome, read_state
from moretta.client.transport import enrollment
from moretta.client.transport.identity import WAY_BACK, Identity
from moretta.client.transport.server_channel import look_at_authority
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.processes import named_proxies
from moretta.shared.core.errors import ExitCode, MorettaError
from moretta.shared.core.labels import in_order
from moretta.shared.core.reproducibility import PACKAGES, code_digest, versions
from moretta.shared.data.clips import Corpus
from moretta.shared.enrollment import split_address
from moretta.shared.pb.enrollment_pb2 import InfoReply

_LEAST_BYTES, _FEW_BYTES = 200 * 2**20, 2 * 2**30
_OVERDUE_SECONDS = 60.0
_AHEAD_SECONDS, _BEHIND_SECONDS = 4.0, 290.0
"""Largest differences of the clocks: the server accepts signatures up to 5 s ahead of its clock, or 300 s behind it."""
_OFF_SECONDS = 2.0
_CONNECT_SECONDS = 5.0
_GENERAL_FIX = {
    ExitCode.UNREACHABLE: "ask the coordinator whether the server runs",
    ExitCode.ENROLLMENT: "ask the coordinator",
    ExitCode.REFUSED: "ask the coordinator",
    ExitCode.HOME: "correct the file",
    ExitCode.CORPUS: "correct the corpus, or its path in site.toml",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: well without a fix, a warning with one, a fault with the code that ends the command."""

    check: str
    found: str
    fix: str = ""
    code: ExitCode = ExitCode.OK

    @property
    def verdict(self) -> str:
        """`ok`, `warning` or `fault`."""
        return "fault" if self.code else "warning" if self.fix else "ok"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdict": self.verdict, "code": int(self.code)}


def _tried(check: str, call: Callable[[], _T], text: str | Callable[[_T], str]) -> Generator[Finding, None, _T | None]:
    """Yield the result of a call as a finding, or its error as a fault; returns the result, None where it failed."""
    try:
        result = call()
    except MorettaError as error:
        expected = f"; expected {error.expected}" if error.expected else ""
        fix = error.fix or _GENERAL_FIX.get(error.exit_code, "see docs/site.md")
        yield Finding(check, error.found + expected, fix, error.exit_code)
        return None
    yield Finding(check, text if isinstance(text, str) else text(result))
    return result


def _graded(check: str, found: str, fix: str, code: ExitCode, *, fault: bool, warning: bool) -> Finding:
    return Finding(check, found, fix if fault or warning else "", code if fault else ExitCode.OK)


def examine(
    home: SiteHome,
    *,
    clock: Callable[[], float] = time.time,
    disk_usage: Callable[[Path], Any] = shutil.disk_usage,
) -> list[Finding]:
    """Check everything. Nothing is changed, here or at the server.

    Args:
        clock: seconds since 1970.
        disk_usage: of the disk a folder is on, with its `free` bytes.
    """
    return list(_findings(home, clock, disk_usage))


def _findings(home: SiteHome, clock: Callable[[], float], disk_usage: Callable[[Path], Any]) -> Iterator[Finding]:
    yield from check_packages()
    yield from _check_folder(home, disk_usage)
    site = yield from _tried("settings", home.read, lambda file: f"clips are in {file.corpus}")
    if site is not None:
        settings = yield from _tried(
            "withdrawn",
            lambda: of_folder(home, name="", policy=None),
            lambda found: f"{len(found.withdrawn.people)} people have withdrawn",
        )
        if settings is not None:
            yield from _tried("device", home.check_device, lambda device: f"local training computes on: {device}")
            yield from _check_corpus(site, settings.withdrawn)
            yield from _check_releases(settings)
    policy = yield from _tried(
        "policy",
        lambda: Policy.load(home.policy_file),
        lambda p: f"training up to epsilon {p.max_training_epsilon:g} per clip, releases of {p.min_clips} clips up",
    )
    identity = yield from _tried(
        "identity",
        lambda: Identity.load(home.identity_file),
        lambda found: f"{found.site}, enrolled at {found.address}",
    )
    if policy is not None:
        yield from _check_policy(policy, site, identity)
    if identity is not None:
        expired = yield from _check_certificate(identity, clock())
        connected = yield from _check_connection(identity)
        if connected and not expired:
            yield from _check_server(identity, clock)
        yield _process(home)


def worst(findings: Sequence[Finding]) -> ExitCode:
    """The code of the first fault, which explains the later ones; OK if there is none."""
    return next((finding.code for finding in findings if finding.code), ExitCode.OK)


def check_packages() -> Iterator[Finding]:
    """Whether all is installed that figures depend on."""
    found = versions()
    if missing := [name for name in PACKAGES if found[name] == "absent"]:
        fix = "install Moretta again, with what it depends on"
        yield Finding("versions", f"missing: {', '.join(missing)}", fix, ExitCode.INTERNAL)
    else:
        yield Finding("versions", f"moretta {found['moretta']}, flwr {found['flwr']}, python {found['python']}")


def _check_folder(home: SiteHome, disk_usage: Callable[[Path], Any]) -> Iterator[Finding]:
    """Whether the folder is there, closed to others, and on a disk with room."""
    if not home.root.is_dir():
        yield Finding("folder", f"no folder {home.root}", "join a server: moretta site join STRING", ExitCode.HOME)
        return
    secret = (home.root, home.keys, *home.keys.glob("*"), home.root / "pseudonym.key", home.root / "ledger.jsonl")
    if opened := [path for path in secret if path.exists() and path.stat().st_mode & 0o077]:
        found = f"others on this machine can read {opened[0]}"
        yield Finding("folder", found, f"chmod -R go= {home.root}", ExitCode.HOME)
    else:
        yield Finding("folder", f"{home.root}, closed to others")
    if left := sorted(home.root.glob(f"{REVIEW_PREFIX}*")):
        found = f"{len(left)} folders of reviews or audits, with clips and the pseudonym key, such as {left[0].name}"
        yield Finding("reviews", found, f"if neither runs now, it was killed: rm -r {home.root}/{REVIEW_PREFIX}*")
    free, fix = disk_usage(home.root).free, "free some: nothing leaves that the ledger cannot record first"
    found, few = f"{free / 2**30:.1f} GiB free", free < _FEW_BYTES
    yield _graded("disk", found, fix, ExitCode.HOME, fault=free < _LEAST_BYTES, warning=few)


def _check_corpus(site: SiteFile, withdrawn: Withdrawn) -> Iterator[Finding]:
    """Whether the clips and the speakers that `site.toml` names are there, except for those who have withdrawn."""
    from moretta.shared.data.reader import read_corpus

    def text(corpus: Corpus) -> str:
        own = corpus.of(site.speakers) if site.speakers else corpus.clips
        found = f"{len(own)} clips of {len({clip.speaker for clip in own})} speakers in {corpus.name}"
        return found if len(own) == len(corpus.clips) else f"{found}, which has {len(corpus.clips)}"

    corpus = yield from _tried("corpus", lambda: without(read_corpus(site.corpus, classes=None), withdrawn), text)
    if corpus is None:
        return
    held_out = set(site.held_out or ())
    if corpus.dropped:
        fix = f"see which and why: moretta corpus check {site.corpus}"
        yield Finding("corpus", f"{len(corpus.dropped)} files cannot be used", fix)
    if corpus.tested and site.held_out is None:
        fix = f"set held_out = {in_order(corpus.tested)} in site.toml, or leave the choice to the keyed rule"
        yield Finding("corpus", f"its split names {len(corpus.tested)} test speakers, not held out here", fix)
    present = {clip.speaker for clip in corpus.clips}
    for key, named in (("speakers", set(site.speakers)), ("held_out", held_out)):
        if absent := in_order(named - present - withdrawn.speakers):
            found = f"{key} names {', '.join(absent[:5])}, who have no clip"
            yield Finding("corpus", found, f"correct {key} in site.toml", ExitCode.CORPUS)
    if not present & held_out and withdrawn.speakers & held_out:
        found = "everybody who was held out has withdrawn: nobody here tests the models"
        yield Finding("corpus", found, "name others in held_out of site.toml")
    own = present & set(site.speakers) if site.speakers else present
    if own and own <= held_out:
        found = "every speaker is held out: this site trains nothing"
        yield Finding("corpus", found, "shorten held_out in site.toml")


def _check_releases(settings: SiteSettings) -> Iterator[Finding]:
    """Every clip that was released is read again, and compared with what was released."""
    anew = "start the study again: it is then made anew, and counted anew on the ledger"
    for short in stored_studies(settings):
        unused = f"of the study {short} is not used"
        try:
            for provenance in stored_provenances(settings, short).values():
                if provenance is None:
                    yield Finding("release", f"{unused}: no record says what it was made of", anew)
                    continue
                changes = find_changes(provenance, settings, whole=True)
                if changes.unclear:
                    fix = "put back what is missing; or, if somebody has withdrawn: moretta site withdraw SPEAKER"
                    yield Finding("release", f"{unused}: {changes.unclear}", fix)
                elif changes:
                    yield Finding("release", f"{unused} any more: {changes.as_text()}", anew)
                else:
                    later = f"; {len(changes.added)} clips came later and are no part of it" if changes.added else ""
                    yield Finding("release", f"of the study {short} is of the clips as they are{later}")
        except MorettaError as error:
            yield Finding("release", f"{unused}: {error.found}", error.fix or "see docs/site.md")


def _check_policy(policy: Policy, site: SiteFile | None, identity: Identity | None) -> Iterator[Finding]:
    """Whether the site itself keeps its policy: else it refuses everything."""
    rules, seeded = "policy kept", site is not None and site.simulated_seed is not None
    if identity is not None:
        pinned = identity.ca_fingerprint
        yield from _tried(rules, lambda: policy.check_pinned("server_fingerprint", pinned), "by the server")
    yield from _tried(rules, lambda: policy.check_pinned("code_digest", code_digest()), "by the installed code")
    yield from _tried(
        rules, lambda: policy.check_pinned("bundle_digest", installed_bundle().digest), "by the installed bundle"
    )
    yield from _tried(rules, lambda: policy.check_noise(seeded=seeded), "by the source of noise")
    if policy.allow_seeded_noise:
        fix = "set allow_seeded_noise = false in policy.toml, unless this is a test"
        yield Finding("policy", "noise from a seed is allowed: it protects nobody", fix)


def _check_certificate(identity: Identity, now: float) -> Generator[Finding, None, bool]:
    """Check the certificate; returns whether it has expired."""
    left = dt.timedelta(seconds=int(identity.not_after.timestamp() - now))
    ends = f"{identity.not_after:%Y-%m-%d %H:%M} UTC"
    if left.total_seconds() <= 0:
        yield Finding("certificate", f"expired {ends}", WAY_BACK, ExitCode.ENROLLMENT)
        return True
    if now >= identity.renew_at(1.0).timestamp() + _OVERDUE_SECONDS:
        fix = "start the site, which renews it: moretta site run; or renew it now: moretta site renew"
        yield Finding("certificate", f"ends {ends}, in {left}: its renewal is overdue", fix)
    else:
        yield Finding("certificate", f"ends {ends}, in {left}")
    return False


def _process(home: SiteHome) -> Finding:
    """Whether `moretta site run` runs, and whether Flower counts the site as online."""
    state = read_state(home)
    if state is None:
        return Finding("process", "the site is not running", "start it: moretta site run")
    if state.online:
        return Finding("process", f"running as process {state.pid}, online")
    fix = f"see {home.logs / 'supernode.log'}; after a kill it takes up to a minute"
    return Finding("process", f"running as process {state.pid}, not online yet", fix)


def _check_connection(identity: Identity) -> Generator[Finding, None, bool]:
    """Check name, port and authority of the server; returns whether the joined server responds."""
    host, port = split_address(identity.address)
    if proxies := ", ".join(named_proxies(os.environ)):
        yield Finding("proxy", f"{proxies} named in the environment, and not used: this site dials the server")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = f"check the name with the coordinator, and this machine's DNS: getent hosts {host}"
        yield Finding("dns", f"the name {host} is not known ({error.strerror})", fix, ExitCode.UNREACHABLE)
        return False
    yield Finding("dns", f"{host} is known")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        fix = f"let this machine open TCP connections to {identity.address} without a proxy; is the server running?"
        yield Finding("port", f"no connection to {identity.address}: {error}", fix, ExitCode.UNREACHABLE)
        return False
    yield Finding("port", f"{identity.address} takes connections")
    shown = yield from _tried(
        "authority",
        lambda: look_at_authority(identity.address, identity.ca_fingerprint),
        f"{identity.ca_fingerprint[:16]}..., the one that was joined",
    )
    return shown is not None


def _check_server(identity: Identity, clock: Callable[[], float]) -> Iterator[Finding]:
    """Check that the server knows this site, that both clocks agree, and that both run the same version."""

    async def info_and_offset() -> tuple[InfoReply, float]:
        """The server's versions, and the seconds by which this machine's clock is ahead of the server's."""
        await enrollment.status(identity)
        began = clock()
        info = await enrollment.info(identity)
        return info, (began + clock()) / 2 - info.unix_time_ms / 1000

    reply = yield from _tried("enrollment", lambda: asyncio.run(info_and_offset()), "the server knows this site")
    if reply is None:
        return
    info, ahead = reply  # signatures carry a time: with a wrong clock every call is refused
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    wrong, off = not -_BEHIND_SECONDS <= ahead <= _AHEAD_SECONDS, abs(ahead) > _OFF_SECONDS
    fix = "set the clock, and keep it set: timedatectl set-ntp true"
    yield _graded("clock", found, fix, ExitCode.ENROLLMENT, fault=wrong, warning=off)
    yield from check_code(info)


def check_code(info: InfoReply) -> Iterator[Finding]:
    """Check that both sides run the same versions and code."""
    own, code, bundle = versions(), code_digest(), installed_bundle().digest
    for name, there in (("moretta", info.moretta_version), ("flwr", info.flwr_version)):
        if there and there != own[name]:
            fix = f"install the server's version of {name}, or ask the coordinator to install this one"
            yield Finding("server's versions", f"{name} {own[name]} here, {there} at the server", fix)
    same = "install the same build of Moretta here and at the server"
    if info.code_digest and info.code_digest != code:
        yield Finding("server's code", f"{code[:12]} here, {info.code_digest[:12]} at the server", same)
    if info.bundle_digest and info.bundle_digest != bundle:
        found = f"{bundle[:12]} here, {info.bundle_digest[:12]} at the server: this site refuses to run it"
        yield Finding("server's bundle", found, same, ExitCode.REFUSED)
