"""A virtual site that takes over its own release: bit by bit what it would have made, and as much on its ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moretta.client.accounting.account import UNITS, Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.clips.release import make_release
from moretta.client.clips.stored_state import take_over_release
from moretta.client.settings import SiteSettings
from moretta.shared.core.errors import RefusedError
from moretta.shared.release import open_release


@pytest.fixture
def origin(simulated: Any) -> SiteSettings:
    site: SiteSettings = simulated.site()
    make_release(site, simulated.study, simulated.public)
    return site


def test_it_is_what_the_site_would_have_made_for_the_other_study(
    simulated: Any, origin: SiteSettings, tmp_path: Path
) -> None:
    other = simulated.study.with_changes(privacy__epsilon=1.0, train__rounds=5)
    heir, maker = replace(origin, home=tmp_path / "heir"), replace(origin, home=tmp_path / "maker")
    assert take_over_release(origin, simulated.study, heir, other)
    make_release(maker, other, simulated.public)
    folders = [site.releases / other.digest()[:16] for site in (heir, maker)]
    taken, made = (open_release(folder) for folder in folders)
    assert taken.statement == made.statement
    assert taken.clips == made.clips
    assert [a.tobytes() for _, a in taken.arrays("voice")] == [a.tobytes() for _, a in made.arrays("voice")]
    accounts = [Account.read(Ledger(site.ledger)) for site in (heir, maker)]
    for unit in UNITS:
        figures = [account.epsilon(unit, "server", delta=1e-3) for account in accounts]
        assert figures[0] == figures[1]
        assert figures[0] is not None
        assert figures[0] > 0
    assert Ledger(heir.ledger).entries("release", study=other.digest())


def test_nothing_to_take_over_is_reported(simulated: Any, tmp_path: Path) -> None:
    site = simulated.site()
    assert not take_over_release(site, simulated.study, replace(site, home=tmp_path / "heir"), simulated.study)


def test_a_real_site_another_site_and_a_second_time_are_refused(
    simulated: Any, origin: SiteSettings, tmp_path: Path
) -> None:
    heir = replace(origin, home=tmp_path / "heir")
    real = replace(origin, simulated_seed=None)
    for one, two in ((real, replace(heir, simulated_seed=None)), (origin, replace(heir, name="another"))):
        with pytest.raises(RefusedError, match="one virtual site"):
            take_over_release(one, simulated.study, two, simulated.study)
    take_over_release(origin, simulated.study, heir, simulated.study)
    with pytest.raises(RefusedError):
        take_over_release(origin, simulated.study, heir, simulated.study)
