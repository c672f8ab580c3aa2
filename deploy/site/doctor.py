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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from moretta.client.clips.provenance import find_changes
from moretta.client.clips.site_clips import Withdrawn, without
from moretta.client.clips.stored_state import stored_provenances
from moretta.client.clips.withdrawal import stored_studies
from moretta.client.policy import Policy
from moretta.client.settings import SiteSettings, of_folder
from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport import enrollment
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import WAY_BACK, look_at_authority
from moretta.deploy.runtime.control import installed_bundle
from moretta.deploy.runtime.processes import named_proxies
from moretta.deploy.site.supervisor import read_state
from moretta.shared.core.errors import ExitCode, MorettaError
from moretta.shared.core.labels import in_order
from moretta.shared.core.reproducibility import PACKAGES, code_digest, versions
from moretta.shared.data.clips import Corpus
from moretta.shared.enrollment.identifiers import split_address
from moretta.shared.pb.enrollment_pb2 import InfoReply

_LEAST_BYTES, _FEW_BYTES = 200 * 2**20, 2 * 2**30
_OVERDUE_SECONDS = 60.0
_AHEAD_SECONDS, _BEHIND_SECONDS = 4.0, 290.0
"""The server takes what was signed up to 5 s ahead of its clock, or 300 s behind it."""
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
    """The result of one check."""

    check: str
    verdict: Literal["ok", "warning", "fault"]
    found: str
    fix: str = ""
    """How it is put right; never empty for a warning or a fault."""
    code: ExitCode = ExitCode.OK
    """With which a fault ends the command."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "code": int(self.code)}


class Findings(list[Finding]):
    """The findings so far, in order."""

    def ok(self, check: str, found: str) -> None:
        """All is well."""
        self.append(Finding(check, "ok", found))

    def warning(self, check: str, found: str, fix: str) -> None:
        """It works, and should be looked at."""
        self.append(Finding(check, "warning", found, fix))

    def fault(self, check: str, found: str, fix: str, code: ExitCode) -> None:
        """It does not work."""
        self.append(Finding(check, "fault", found, fix, code))

    def tried(self, check: str, call: Callable[[], _T], text: Callable[[_T], str]) -> _T | None:
        """Call, and record the result as text, or the error as a fault; returns the result, None where it failed."""
        try:
            result = call()
        except MorettaError as error:
            expected = f"; expected {error.expected}" if error.expected else ""
            fix = error.fix or _GENERAL_FIX.get(error.exit_code, "see docs/site.md")
            self.fault(check, error.found + expected, fix, error.exit_code)
            return None
        self.ok(check, text(result))
        return result


def examine(
    home: SiteHome,
    *,
    clock: Callable[[], float] = time.time,
    disk_usage: Callable[[Path], Any] = shutil.disk_usage,
) -> list[Finding]:
    """Check everything. Nothing is changed, here or at the server.

    Args:
        home: the site's folder.
        clock: seconds since 1970.
        disk_usage: of the disk a folder is on, with its `free` bytes.
    """
    findings = Findings()
    check_packages(findings)
    _check_folder(findings, home, disk_usage)
    site = findings.tried("settings", home.read, lambda file: f"clips are in {file.corpus}")
    if site is not None:
        settings = findings.tried(
            "withdrawn",
            lambda: of_folder(home, name="", policy=None),
            lambda found: f"{len(found.withdrawn.people)} people have withdrawn",
        )
        if settings is not None:
            _check_corpus(findings, site, settings.withdrawn)
            _check_releases(findings, settings)
    policy = findings.tried(
        "policy",
        lambda: Policy.load(home.policy_file),
        lambda p: f"training up to epsilon {p.max_training_epsilon:g} per clip, releases of {p.min_clips} clips up",
    )
    identity = findings.tried(
        "identity",
        lambda: Identity.load(home.identity_file),
        lambda found: f"{found.site}, enrolled at {found.address}",
    )
    if policy is not None:
        _check_policy(findings, policy, site, identity)
    if identity is not None:
        expired = _check_certificate(findings, identity, clock())
        if _check_connection(findings, identity) and not expired:
            _check_server(findings, identity, clock)
        _check_process(findings, home)
    return findings


def worst(findings: Sequence[Finding]) -> ExitCode:
    """The code of the first fault, which explains the later ones; OK if there is none."""
    return next((f.code for f in findings if f.verdict == "fault"), ExitCode.OK)


def check_packages(findings: Findings) -> None:
    """Whether all is installed that figures depend on."""
    found = versions()
    if missing := [name for name in PACKAGES if found[name] == "absent"]:
        fix = "install Moretta again, with what it depends on"
        findings.fault("versions", f"missing: {', '.join(missing)}", fix, ExitCode.INTERNAL)
    else:
        findings.ok("versions", f"moretta {found['moretta']}, flwr {found['flwr']}, python {found['python']}")


def _check_folder(findings: Findings, home: SiteHome, disk_usage: Callable[[Path], Any]) -> None:
    """Whether the folder is there, closed to others, and on a disk with room."""
    if not home.root.is_dir():
        findings.fault("folder", f"no folder {home.root}", "join a server: moretta site join STRING", ExitCode.HOME)
        return
    secret = (home.root, home.keys, *home.keys.glob("*"), home.root / "pseudonym.key", home.root / "ledger.jsonl")
    if opened := [path for path in secret if path.exists() and path.stat().st_mode & 0o077]:
        found = f"others on this machine can read {opened[0]}"
        findings.fault("folder", found, f"chmod -R go= {home.root}", ExitCode.HOME)
    else:
        findings.ok("folder", f"{home.root}, closed to others")
    free, fix = disk_usage(home.root).free, "free some: nothing leaves that the ledger cannot record first"
    found = f"{free / 2**30:.1f} GiB free"
    if free < _LEAST_BYTES:
        findings.fault("disk", found, fix, ExitCode.HOME)
    elif free < _FEW_BYTES:
        findings.warning("disk", found, fix)
    else:
        findings.ok("disk", found)


def _check_corpus(findings: Findings, site: SiteFile, withdrawn: Withdrawn) -> None:
    """Whether the clips and the speakers that `site.toml` names are there, except for those who have withdrawn."""
    from moretta.shared.data.reader import read_corpus

    def text(corpus: Corpus) -> str:
        own = corpus.of(site.speakers) if site.speakers else corpus.clips
        found = f"{len(own)} clips of {len({clip.speaker for clip in own})} speakers in {corpus.name}"
        return found if len(own) == len(corpus.clips) else f"{found}, which has {len(corpus.clips)}"

    corpus = findings.tried("corpus", lambda: without(read_corpus(site.corpus, classes=None), withdrawn), text)
    if corpus is None:
        return
    held_out = set(site.held_out or ())
    if corpus.dropped:
        fix = f"see which and why: moretta corpus check {site.corpus}"
        findings.warning("corpus", f"{len(corpus.dropped)} files cannot be used", fix)
    if corpus.tested and site.held_out is None:
        fix = f"set held_out = {in_order(corpus.tested)} in site.toml, or leave the choice to the keyed rule"
        findings.warning("corpus", f"its split names {len(corpus.tested)} test speakers, not held out here", fix)
    present = {clip.speaker for clip in corpus.clips}
    for key, named in (("speakers", set(site.speakers)), ("held_out", held_out)):
        if absent := in_order(named - present - withdrawn.speakers):
            found = f"{key} names {', '.join(absent[:5])}, who have no clip"
            findings.fault("corpus", found, f"correct {key} in site.toml", ExitCode.CORPUS)
    if held_out and not present & held_out and withdrawn.speakers & held_out:
        found = "everybody who was held out has withdrawn: nobody here tests the models"
        findings.warning("corpus", found, "name others in held_out of site.toml")
    own = present & set(site.speakers) if site.speakers else present
    if own and own <= held_out:
        found = "every speaker is held out: this site trains nothing"
        findings.warning("corpus", found, "shorten held_out in site.toml")


def _check_releases(findings: Findings, settings: SiteSettings) -> None:
    """Every clip that was released is read again, and compared with what was released."""
    anew = "start the study again: it is then made anew, and counted anew on the ledger"
    for short in stored_studies(settings):
        unused = f"of the study {short} is not used"
        try:
            for provenance in stored_provenances(settings, short).values():
                if provenance is None:
                    findings.warning("release", f"{unused}: no record says what it was made of", anew)
                    continue
                changes = find_changes(provenance, settings, whole=True)
                if changes.unclear:
                    fix = "put back what is missing; or, if somebody has withdrawn: moretta site withdraw SPEAKER"
                    findings.warning("release", f"{unused}: {changes.unclear}", fix)
                elif changes:
                    findings.warning("release", f"{unused} any more: {changes.as_text()}", anew)
                else:
                    later = f"; {len(changes.added)} clips came later and are no part of it" if changes.added else ""
                    findings.ok("release", f"of the study {short} is of the clips as they are{later}")
        except MorettaError as error:
            findings.warning("release", f"{unused}: {error.found}", error.fix or "see docs/site.md")


def _check_policy(findings: Findings, policy: Policy, site: SiteFile | None, identity: Identity | None) -> None:
    """Whether the site itself keeps its policy: else it refuses everything."""
    rules = "policy kept"
    if identity is not None:
        findings.tried(rules, lambda: policy.check_server(identity.ca_fingerprint), lambda _: "by the server")
    findings.tried(rules, lambda: policy.check_code(code_digest()), lambda _: "by the installed code")
    findings.tried(rules, lambda: policy.check_bundle(installed_bundle().digest), lambda _: "by the installed bundle")
    seeded = site is not None and site.simulated_seed is not None
    findings.tried(rules, lambda: policy.check_noise(seeded=seeded), lambda _: "by the source of noise")
    if policy.allow_seeded_noise:
        fix = "set allow_seeded_noise = false in policy.toml, unless this is a test"
        findings.warning("policy", "noise from a seed is allowed: it protects nobody", fix)


def _check_certificate(findings: Findings, identity: Identity, now: float) -> bool:
    """Note the certificate's state; whether it has expired."""
    left = dt.timedelta(seconds=int(identity.not_after.timestamp() - now))
    ends = f"{identity.not_after:%Y-%m-%d %H:%M} UTC"
    if left.total_seconds() <= 0:
        findings.fault("certificate", f"expired {ends}", WAY_BACK, ExitCode.ENROLLMENT)
        return True
    if now >= identity.renew_at(1.0).timestamp() + _OVERDUE_SECONDS:
        fix = "start the site, which renews it: moretta site run; or renew it now: moretta site renew"
        findings.warning("certificate", f"ends {ends}, in {left}: its renewal is overdue", fix)
    else:
        findings.ok("certificate", f"ends {ends}, in {left}")
    return False


def _check_process(findings: Findings, home: SiteHome) -> None:
    """Whether `moretta site run` runs, and whether Flower counts the site as online."""
    state = read_state(home)
    if state is None:
        findings.warning("process", "the site is not running", "start it: moretta site run")
    elif state.online:
        findings.ok("process", f"running as process {state.pid}, online")
    else:
        fix = f"see {home.logs / 'supernode.log'}; after a kill it takes up to a minute"
        findings.warning("process", f"running as process {state.pid}, not online yet", fix)


def _check_connection(findings: Findings, identity: Identity) -> bool:
    """Name, port, authority; whether the server that was joined responds."""
    host, port = split_address(identity.address)
    if proxies := named_proxies(os.environ):
        findings.ok("proxy", f"{', '.join(proxies)} named in the environment, and not used: this site dials the server")
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        fix = f"check the name with the coordinator, and this machine's DNS: getent hosts {host}"
        findings.fault("dns", f"the name {host} is not known ({error.strerror})", fix, ExitCode.UNREACHABLE)
        return False
    findings.ok("dns", f"{host} is known")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        allow = f"let this machine open TCP connections to {identity.address} without a proxy"
        fix = f"{allow}; ask whether the server runs"
        findings.fault("port", f"no connection to {identity.address}: {error}", fix, ExitCode.UNREACHABLE)
        return False
    findings.ok("port", f"{identity.address} takes connections")
    shown = findings.tried(
        "authority",
        lambda: look_at_authority(identity.address, identity.ca_fingerprint),
        lambda _: f"{identity.ca_fingerprint[:16]}..., the one that was joined",
    )
    return shown is not None


def _check_server(findings: Findings, identity: Identity, clock: Callable[[], float]) -> None:
    """Whether it knows this site, what its clock says, and what it runs."""

    async def info_and_offset() -> tuple[InfoReply, float]:
        """What the server runs, and by how many seconds this clock is ahead of its."""
        await enrollment.status(identity)
        began = clock()
        info = await enrollment.info(identity)
        return info, (began + clock()) / 2 - info.unix_time_ms / 1000

    reply = findings.tried("enrollment", lambda: asyncio.run(info_and_offset()), lambda _: "the server knows this site")
    if reply is None:
        return
    info, ahead = reply  # signatures carry a time: with a wrong clock every call is refused
    found = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    fix = "set the clock, and keep it set: timedatectl set-ntp true"
    if not -_BEHIND_SECONDS <= ahead <= _AHEAD_SECONDS:
        findings.fault("clock", found, fix, ExitCode.ENROLLMENT)
    elif abs(ahead) > _OFF_SECONDS:
        findings.warning("clock", found, fix)
    else:
        findings.ok("clock", found)
    check_code(findings, info)


def check_code(findings: Findings, info: InfoReply) -> None:
    """Whether both sides run the same."""
    own, bundle = versions(), installed_bundle().digest
    for name, there in (("moretta", info.moretta_version), ("flwr", info.flwr_version)):
        if there and there != own[name]:
            fix = f"install the server's version of {name}, or ask the coordinator to install this one"
            findings.warning("server's versions", f"{name} {own[name]} here, {there} at the server", fix)
    same = "install the same build of Moretta here and at the server"
    if info.code_digest and info.code_digest != code_digest():
        found = f"{code_digest()[:12]} here, {info.code_digest[:12]} at the server"
        findings.warning("server's code", found, same)
    if info.bundle_digest and info.bundle_digest != bundle:
        found = f"{bundle[:12]} here, {info.bundle_digest[:12]} at the server: this site refuses to run it"
        findings.fault("server's bundle", found, same, ExitCode.REFUSED)
