from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from moretta.client.clips.release import make_release
from moretta.shared.audit.dataset import ClipSet
from moretta.shared.audit.runner import audit
from moretta.shared.release.anonymizer import anonymizer_names
from moretta.shared.study.options import ANONYMIZERS
from moretta.shared.study.schema import Study

GUIDE = Path(__file__).parents[3] / "docs" / "anonymizers.md"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Removes the anonymizer that the guide registers after its test."""
    ANONYMIZERS.load()
    before = dict(ANONYMIZERS._items)
    yield
    ANONYMIZERS._items.clear()
    ANONYMIZERS._items.update(before)


def test_the_anonymizer_that_the_guide_writes_is_released_and_attacked(simulated: Any, study: Study) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    written = [line for line in code.splitlines() if line.strip()]
    assert len(written) <= 32
    exec(compile(code, "<guide>", "exec", dont_inherit=True), {"__name__": "guide"})  # noqa: S102
    wanted = study.with_changes(voice__anonymizer="two-levels", voice__options={"epsilon": 4.0})
    release = make_release(simulated.site(), wanted, {})
    assert release.statement.clips == 24 and not release.statement.dropped
    stated = release.anonymizer("voice")
    assert stated is not None and stated.privacy[0].epsilon == 8.0
    clips = ClipSet.from_releases([release], "voice")
    rows = audit(None, clips, attackers=["voice-logistic"], workers=1, bootstrap=0).results
    top1 = [r for r in rows if (r.scenario, r.metric, r.subset, r.pooled) == ("semi-informed", "top1", "all", 1)]
    assert top1 and top1[0].value is not None and not top1[0].invalid


def test_the_guide_names_every_anonymizer() -> None:
    text = GUIDE.read_text("utf-8")
    for modality in ("voice", "face"):
        for name in anonymizer_names(modality):  # type: ignore[arg-type]
            assert f"`{name}`" in text, name
