"""All looks, in an order in which the first fault explains the later ones."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moretta.client.policy import Policy
from moretta.client.settings import of_folder
from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity
from moretta.deploy.site.doctor import local_checks, server_checks
from moretta.deploy.site.doctor.doctor_findings import Finding, Findings
from moretta.deploy.site.doctor.releases import look_at_releases

Clock = Callable[[], float]


def examine(
    home: SiteHome, *, clock: Clock = time.time, disk_usage: Callable[[Path], Any] = shutil.disk_usage
) -> list[Finding]:
    """Look at everything. Nothing is changed, here or at the server.

    Args:
        home: the site's folder.
        clock: seconds since 1970.
        disk_usage: of the disk a folder is on, with its `free` bytes.
    """
    notes = Findings()
    local_checks.look_at_packages(notes)
    local_checks.look_at_folder(notes, home, disk_usage)
    said = notes.tried("settings", home.read, lambda seen: f"clips are in {seen.corpus}")
    if said is not None:
        settings = notes.tried(
            "withdrawn",
            lambda: of_folder(home, name="", policy=None),
            lambda seen: f"{len(seen.withdrawn.people)} people have withdrawn",
        )
        if settings is not None:
            local_checks.look_at_corpus(notes, said, settings.withdrawn)
            look_at_releases(notes, settings)
    policy = notes.tried("policy", lambda: Policy.load(home.policy_file), local_checks.policy_as_text)
    identity = notes.tried(
        "identity", lambda: Identity.load(home.identity_file), lambda seen: f"{seen.site}, enrolled at {seen.address}"
    )
    if policy is not None:
        local_checks.look_at_policy(notes, policy, said, identity)
    if identity is None:
        return notes.notes
    expired = local_checks.certificate_expired(notes, identity, clock())
    if server_checks.met(notes, identity) and not expired:
        server_checks.look_at_server(notes, identity, clock)
    local_checks.look_at_process(notes, home)
    return notes.notes
