"""Names of sites: short, lower case and plain ASCII, so that no two look alike in a certificate, a log or a path."""

from __future__ import annotations

import re

from moretta.shared.core.errors import EnrollmentError

_SITE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)


def check_site_name(name: str) -> str:
    """Return `name` if a site may have it.

    Raises:
        EnrollmentError: it is not 1 to 63 of `a-z`, `0-9` and `-` with no hyphen at either end.
    """
    if not _SITE_NAME.fullmatch(name):
        raise EnrollmentError(
            f"{name[:80]!r} as the name of a site",
            expected="1 to 63 of a-z, 0-9 and '-', with no hyphen at either end",
            fix="choose a name such as clinic-a",
        )
    return name
