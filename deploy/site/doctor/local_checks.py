"""Looks that need no server: packages, folder, disk, clips, policy, certificate, process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moretta.client.clips.site_clips import without
from moretta.client.clips.withdrawn import Withdrawn
from moretta.client.policy import Policy
from moretta.client.site_home import SiteFile, SiteHome
from moretta.client.transport.identity import Identity
from moretta.client.transport.server_channel import WAY_BACK
from moretta.deploy.bundle import installed_bundle
from moretta.deploy.site.doctor.doctor_findings import Findings
from moretta.deploy.site.supervisor import read_state
from moretta.shared.core.errors import ExitCode
from moretta.shared.core.labels import in_order
from moretta.shared.core.reproducibility import PACKAGES, code_digest, versions
from moretta.shared.data.clips import Corpus

_LEAST_BYTES, _FEW_BYTES = 200 * 2**20, 2 * 2**30
_OVERDUE_SECONDS = 60.0


def look_at_packages(notes: Findings) -> None:
    """Whether all is installed that figures depend on."""
    found = versions()
    missing = [name for name in PACKAGES if found[name] == "absent"]
    if missing:
        fix = "install Moretta again, with what it depends on"
        notes.fault("versions", f"missing: {', '.join(missing)}", fix=fix, code=ExitCode.INTERNAL)
    else:
        notes.ok("versions", f"moretta {found['moretta']}, flwr {found['flwr']}, python {found['python']}")


def look_at_folder(notes: Findings, home: SiteHome, disk_usage: Callable[[Path], Any]) -> None:
    """Whether the folder is there, closed to others, and on a disk with room."""
    if not home.root.is_dir():
        fix = "join a server: moretta site join STRING"
        notes.fault("folder", f"no folder {home.root}", fix=fix, code=ExitCode.HOME)
        return
    secret = (home.root, home.keys, *home.keys.glob("*"), home.root / "pseudonym.key", home.root / "ledger.jsonl")
    opened = [path for path in secret if path.exists() and path.stat().st_mode & 0o077]
    if opened:
        fix = f"chmod -R go= {home.root}"
        notes.fault("folder", f"others on this machine can read {opened[0]}", fix=fix, code=ExitCode.HOME)
    else:
        notes.ok("folder", f"{home.root}, closed to others")
    free = disk_usage(home.root).free
    text = f"{free / 2**30:.1f} GiB free"
    fix = "free some: nothing leaves that the ledger cannot write down first"
    if free < _LEAST_BYTES:
        notes.fault("disk", text, fix=fix, code=ExitCode.HOME)
    elif free < _FEW_BYTES:
        notes.warning("disk", text, fix=fix)
    else:
        notes.ok("disk", text)


def look_at_corpus(notes: Findings, said: SiteFile, withdrawn: Withdrawn) -> None:
    """Whether the clips are there, and the speakers whom `site.toml` names, but for those who have withdrawn."""
    from moretta.shared.data.reader import read_corpus

    def describe(seen: Corpus) -> str:
        own = seen.of(said.speakers) if said.speakers else seen.clips
        text = f"{len(own)} clips of {len({clip.speaker for clip in own})} speakers in {seen.name}"
        return text if len(own) == len(seen.clips) else f"{text}, which has {len(seen.clips)}"

    corpus = notes.tried("corpus", lambda: without(read_corpus(said.corpus, classes=None), withdrawn), describe)
    if corpus is None:
        return
    if corpus.dropped:
        fix = f"see which and why: moretta corpus check {said.corpus}"
        notes.warning("corpus", f"{len(corpus.dropped)} files cannot be used", fix=fix)
    if corpus.tested and said.held_out is None:
        fix = f"set held_out = {in_order(corpus.tested)} in site.toml, or leave the choice to the keyed rule"
        notes.warning("corpus", f"its split names {len(corpus.tested)} test speakers, which no one holds out", fix=fix)
    present = {clip.speaker for clip in corpus.clips}
    for key, named in (("speakers", said.speakers), ("held_out", said.held_out or ())):
        absent = in_order(set(named) - present - withdrawn.speakers)
        if absent:
            fix = f"correct {key} in site.toml"
            notes.fault(
                "corpus", f"{key} names {', '.join(absent[:5])}, who have no clip", fix=fix, code=ExitCode.CORPUS
            )
    if said.held_out and not present & set(said.held_out) and withdrawn.speakers & set(said.held_out):
        fix = "name others in held_out of site.toml"
        notes.warning("corpus", "everybody who was held out has withdrawn: nobody here tests the models", fix=fix)
    own = present & set(said.speakers) if said.speakers else present
    if own and own <= set(said.held_out or ()):
        fix = "shorten held_out in site.toml"
        notes.warning("corpus", "every speaker is held out: this site trains nothing", fix=fix)


def policy_as_text(policy: Policy) -> str:
    """What the steward should see at a glance."""
    return f"training up to epsilon {policy.max_training_epsilon:g} per clip, releases of {policy.min_clips} clips up"


def look_at_policy(notes: Findings, policy: Policy, said: SiteFile | None, identity: Identity | None) -> None:
    """Whether the site itself keeps its policy: else it refuses everything."""
    rules = "policy kept"
    if identity is not None:
        notes.tried(rules, lambda: policy.check_server(identity.ca_fingerprint), lambda _: "by the server")
    notes.tried(rules, lambda: policy.check_code(code_digest()), lambda _: "by the installed code")
    notes.tried(rules, lambda: policy.check_bundle(installed_bundle().digest), lambda _: "by the installed bundle")
    seeded = said is not None and said.simulated_seed is not None
    notes.tried(rules, lambda: policy.check_noise(seeded=seeded), lambda _: "by the source of noise")
    if policy.allow_seeded_noise:
        fix = "set allow_seeded_noise = false in policy.toml, unless this is a test"
        notes.warning("policy", "noise from a seed is allowed: it protects nobody", fix=fix)


def certificate_expired(notes: Findings, identity: Identity, now: float) -> bool:
    """Note the certificate's state; whether it has expired."""
    left = dt.timedelta(seconds=int(identity.not_after.timestamp() - now))
    ends = f"{identity.not_after:%Y-%m-%d %H:%M} UTC"
    if left.total_seconds() <= 0:
        notes.fault("certificate", f"expired {ends}", fix=WAY_BACK, code=ExitCode.ENROLLMENT)
        return True
    if now >= identity.renew_at(1.0).timestamp() + _OVERDUE_SECONDS:
        fix = "start the site, which renews it: moretta site run; or renew it now: moretta site renew"
        notes.warning("certificate", f"ends {ends}, in {left}: its renewal is overdue", fix=fix)
    else:
        notes.ok("certificate", f"ends {ends}, in {left}")
    return False


def look_at_process(notes: Findings, home: SiteHome) -> None:
    """Whether `moretta site run` runs, and whether Flower counts the site as online."""
    state = read_state(home)
    if state is None:
        notes.warning("process", "the site is not running", fix="start it: moretta site run")
    elif not state.online:
        fix = f"see {home.logs / 'supernode.log'}; after a kill it takes up to a minute"
        notes.warning("process", f"running as process {state.pid}, not online yet", fix=fix)
    else:
        notes.ok("process", f"running as process {state.pid}, online")
