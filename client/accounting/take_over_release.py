"""A virtual site takes over a release that it made for another study: what a sweep varies is mostly the training.

Only in simulation, where noise comes from a seed and the same release would be made again, bit by bit. A real site
draws its noise anew for every study, and its ledger adds that up.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from moretta.client.accounting.ledger import Ledger
from moretta.client.settings import SiteSettings
from moretta.client.training.data import SCALE_FILE
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.release import open_release
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE
from moretta.shared.study.schema import Study

_OF_LEDGER_ITSELF = ("kind", "at", "salt")


def take_over_release(source: SiteSettings, made_for: Study, heir: SiteSettings, study: Study) -> bool:
    """Give `heir` the release that `origin` made, as if made for `study`, with all its losses on the heir's ledger.

    Whoever calls this knows that both studies anonymize alike.

    Args:
        origin: the virtual site that released.
        made_for: the study it did that for.
        heir: the same site in another run; its home has no ledger yet.
        study: the study of that run.

    Returns:
        Whether there was a release to take over.

    Raises:
        RefusedError: one of the two is no virtual site, they are not the same one, or the heir has a ledger.
    """
    same = (source.name, source.simulated_seed, source.speakers) == (heir.name, heir.simulated_seed, heir.speakers)
    if source.simulated_seed is None or not same or heir.ledger.exists():
        raise RefusedError(
            f"a release of {source.name} to be taken over by {heir.name}",
            expected="one virtual site, of one seed, in a new run",
            fix="let the site make its own release",
        )
    folder = source.releases / made_for.digest()[:16]
    if not (folder / STATEMENT_FILE).exists():
        return False
    target = heir.releases / study.digest()[:16]
    target.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if (
            path.name in (CLIPS_FILE, CODEBOOK_FILE, SCALE_FILE)
            or path.match("voice-*.safetensors")
            or path.match("face-*.safetensors")
        ):
            _hard_link(path, target / path.name)
    _copy_losses(Ledger(source.ledger), Ledger(heir.ledger), study)
    statement = open_release(folder).statement.model_copy(update={"study": study.digest()})
    write_atomic(target / STATEMENT_FILE, statement.model_dump_json(indent=1))
    return True


def _copy_losses(spent: Ledger, ledger: Ledger, study: Study) -> None:
    for entry in spent.all_entries():
        content = {key: value for key, value in entry.items() if key not in _OF_LEDGER_ITSELF}
        if "study" in content:
            content["study"] = study.digest()
        ledger.spend(entry["kind"], **content)


def _hard_link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(path, target)
