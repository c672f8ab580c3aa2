from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from offices import Clock, Office

from moretta.server.enrollment.authority import CertificateAuthority
from moretta.server.enrollment.site_registry import SiteRegistry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def office(tmp_path: Path, clock: Clock) -> Iterator[Office]:
    office = Office.at(tmp_path, clock)
    yield office
    office.registry.close()


@pytest.fixture
def authority(office: Office) -> CertificateAuthority:
    return office.authority


@pytest.fixture
def registry(office: Office) -> SiteRegistry:
    return office.registry
