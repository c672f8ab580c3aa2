"""A person leaves between two runs of one study: the whole way, from the deleted clips to what the server is sent."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from network import Network, Site, StudyRun, chosen

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

STUDY = """
sites = 2
[voice.options]
codebook_size = 16
[face]
enabled = false
[split]
folds = 2
[train]
rounds = 1
[privacy]
epsilon = 3.0
[audit]
enabled = false
"""


@dataclass
class Left:
    """One study run twice; a person's clips were deleted in between, and another person withdrew after it."""

    first: StudyRun
    second: StudyRun
    site: Site
    withdrawn: dict[str, Any]


@pytest.fixture(scope="module")
def left(network: Network, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    own = shutil.copytree(corpus, tmp_path_factory.mktemp("leaving") / "tones")
    sites = [
        network.join("left-00", own, speakers=("1001", "1002"), held_out=("1001",)),
        network.join("left-01", own, speakers=("1003", "1004", "1005"), held_out=("1003",)),
    ]
    for site in sites:
        site.start()
    for site in sites:
        site.wait_online()
    try:
        first = network.study("leaving", STUDY, *chosen("left-00", "left-01")).wait()
        for path in (own / "AudioWAV").glob("1004_*"):
            path.unlink()
        table = own / "VideoDemographics.csv"
        rows = table.read_text("utf-8").splitlines()
        table.write_text("\n".join(row for row in rows if not row.startswith("1004")) + "\n", "utf-8")
        second = network.study("leaving", STUDY, *chosen("left-00", "left-01"), again="-again").wait()
        reported = network.moretta("site", "withdraw", "1005", "--home", str(sites[1].home), "--yes", "--json")
    finally:
        for site in sites:
            site.stop()
    return Left(first, second, sites[1], json.loads(reported))


def _released(run: StudyRun) -> tuple[int, int]:
    statement = json.loads((run.out / "server" / "releases" / "left-01" / "statement.json").read_text("utf-8"))
    return statement["clips"], statement["speakers"]


def test_the_second_run_of_a_study_has_nobody_whose_clips_were_deleted_since_the_first(left: Left) -> None:
    assert _released(left.first) == (36, 3)
    assert _released(left.second) == (24, 2)
    assert left.first.digest() == left.second.digest()


def test_a_running_site_withdraws_a_person_and_tells_both_runs_of_what_is_still_out(left: Left) -> None:
    (out,) = left.withdrawn["out"]
    assert (out["study"], out["name"]) == (left.second.digest(), "leaving")
    assert out["sent"] == {"release": [], "voice": [1]}
    assert out["server"].startswith("127.0.0.1:")
    clips = (left.second.out / "server" / "releases" / "left-01" / "clips.jsonl").read_text("utf-8")
    assert out["pseudonyms"][0] in clips
    assert left.withdrawn["removed"] == [left.second.digest()[:16]]
    assert not list((left.site.home / "release").rglob("*.safetensors"))
