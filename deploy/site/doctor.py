"""`moretta site doctor`: checks everything that a site needs, and names the fix of each fault.

The order is one in which the first fault explains the later ones.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from moretta.client.policy import Policy
from moretta.client.settings import of_folder
from moretta.client.site_home import SiteHome
from moretta.client.transport.identity import Identity
from moretta.deploy.site import doctor_checks as checks
from moretta.shared.core.errors import ExitCode


def examine(
    home: SiteHome,
    *,
    clock: Callable[[], float] = time.time,
    disk_usage: Callable[[Path], Any] = shutil.disk_usage,
) -> list[checks.Finding]:
    """Check everything. Nothing is changed, here or at the server.

    Args:
        home: the site's folder.
        clock: seconds since 1970.
        disk_usage: of the disk a folder is on, with its `free` bytes.
    """
    findings = checks.Findings()
    checks.check_packages(findings)
    checks.check_folder(findings, home, disk_usage)
    site = findings.tried("settings", home.read, lambda file: f"clips are in {file.corpus}")
    if site is not None:
        settings = findings.tried(
            "withdrawn",
            lambda: of_folder(home, name="", policy=None),
            lambda found: f"{len(found.withdrawn.people)} people have withdrawn",
        )
        if settings is not None:
            checks.check_corpus(findings, site, settings.withdrawn)
            checks.check_releases(findings, settings)
    policy = findings.tried("policy", lambda: Policy.load(home.policy_file), checks.policy_text)
    identity = findings.tried(
        "identity",
        lambda: Identity.load(home.identity_file),
        lambda found: f"{found.site}, enrolled at {found.address}",
    )
    if policy is not None:
        checks.check_policy(findings, policy, site, identity)
    if identity is None:
        return findings.all
    expired = checks.check_certificate(findings, identity, clock())
    if checks.check_connection(findings, identity) and not expired:
        checks.check_server(findings, identity, clock)
    checks.check_process(findings, home)
    return findings.all


def worst(findings: Sequence[checks.Finding]) -> ExitCode:
    """The code of the first fault, which explains the later ones; OK if there is none."""
    return next((f.code for f in findings if f.verdict == "fault"), ExitCode.OK)
