"""One server and its sites for all tests of this folder, and the studies that several of them look at.

Starting costs seconds and a study most of a minute, so everything is shared. A study has its own name, hence its own
digest: sites keep what they released and sent for each apart.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `network`, which the tests share

from commands import one_cpu
from network import MORETTA, Network, Site, StudyRun, chosen, until
from servers import miss

from moretta.deploy.runtime.planning import plan_simulation
from moretta.shared.data.reader import read_corpus
from moretta.shared.study.schema import parse_study
from tests.conftest import write_tone_corpus

SEED = 4
"""With it, each of three sites has one speaker to train on and one who is held out."""
STUDY = f"""
seed = {SEED}
sites = 3
[voice.options]
codebook_size = 16
[face]
enabled = false
[split]
folds = 2
[train]
rounds = 2
deadline_seconds = 600.0
[stages]
on_lost_site = "retry"
"""
NO_AUDIT = "[audit]\nenabled = false\n"
AUDIT = '[audit]\nattackers = ["voice-logistic"]\nbootstrap = 0\ninference = false\nutility = false\n'
SITES = ("site-00", "site-01", "site-02")
OPEN_SITES = ("open-00", "open-01", "open-02")
"""Enrolled from the same clips for studies without a seed: pseudonyms in test mode come from the seed too, and a
privacy ledger is refused once it is of other pseudonyms than it was begun under."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six speakers: each site gets the two that the simulation deals to the virtual site of its name."""
    return write_tone_corpus(tmp_path_factory.mktemp("corpus") / "tones", speakers=6)


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Iterator[Network]:
    """A server and three sites, online. Their speakers, and whom they hold out, are those of the simulation."""
    made = Network(tmp_path_factory.mktemp("network"))
    try:
        made.init()
        made.start_server()
        for site in _joined(made, corpus, SITES):
            site.seed(SEED)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def open_sites(network: Network, corpus: Path) -> list[Site]:
    """Three more sites, with the same clips, whose noise is the operating system's.

    The first three end until a study needs them again: a site that looks for messages costs the server time.
    """
    for site in network.sites:
        site.stop()
    return _joined(network, corpus, OPEN_SITES)


@pytest.fixture(scope="session")
def own_clips(network: Network, open_sites: list[Site], corpus: Path) -> Site:
    """A site of three people with a copy of the clips, from which tests remove some."""
    del open_sites
    own = shutil.copytree(corpus, network.root / "own" / "tones")
    site = network.join("own-00", own, speakers=("1003", "1004", "1005"), held_out=("1003",))
    site.start()
    site.wait_online()
    return site


def _joined(network: Network, corpus: Path, names: tuple[str, ...]) -> list[Site]:
    plan = plan_simulation(read_corpus(corpus), parse_study(tomllib.loads(STUDY)), "moretta simulate")
    joined = []
    for name, virtual in zip(names, plan.sites, strict=True):
        held_out = tuple(sorted(set(virtual.speakers) & plan.test_speakers))
        joined.append(network.join(name, corpus, speakers=virtual.speakers, held_out=held_out))
        joined[-1].start()
    for site in joined:
        site.wait_online()
    return joined


def seeded(network: Network) -> list[Site]:
    """The sites in test mode, without the misbehaviour of an earlier study."""
    chosen = [site for site in network.sites if site.name in SITES]
    for site in chosen:
        site.sabotage()
        if site.stopped:
            site.start()
    for site in chosen:
        site.wait_online()
    return chosen


@pytest.fixture
def test_mode_sites(network: Network) -> list[Site]:
    return seeded(network)


def training(site: Site, run: StudyRun, number: int) -> bool:
    """Whether the site's ledger has a round of a study: it is computing, or has just answered."""
    return len(site.ledger("dp-sgd", run.digest())) >= number


@pytest.fixture(scope="session")
def simulated(network: Network, corpus: Path) -> StudyRun:
    """The same study in simulation."""
    return _simulated(network, corpus, "undisturbed", STUDY + AUDIT)


def _simulated(network: Network, corpus: Path, name: str, text: str) -> StudyRun:
    path, out = network.root / f"simulated-{name}.toml", network.root / f"simulated-{name}"
    path.write_text(f'name = "{name}"\n{text}', encoding="utf-8")
    with one_cpu():
        done = subprocess.run(
            [MORETTA, "simulate", "--corpus", corpus, "--study", path, "--out", out],
            env=network.environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return StudyRun(None, out)  # type: ignore[arg-type]


@dataclass
class Encoders:
    """One study whose sites train the encoder of a published system together, in simulation and over the network."""

    system: str
    simulated: StudyRun
    deployed: StudyRun
    sites: list[Site]


@pytest.fixture(
    scope="session",
    params=["replacement-autoencoder", pytest.param("unlearnt-gender", marks=pytest.mark.slow)],
)
def encoders(request: Any, network: Network, corpus: Path) -> Encoders:
    """Public speech of six other people, three of each sex."""
    name, speech = f"encoders-{request.param}", network.root / "public" / "tones"
    if not speech.exists():
        write_tone_corpus(speech, speakers=6)
    voice = f"""
[voice]
anonymizer = "{request.param}"
[voice.options]
public_speech = {json.dumps(str(speech))}
epochs = 10
code_training = "federated"
code_rounds = 2
code_epsilon = 8.0
code_unit = "clip"
"""
    text = STUDY.replace("[voice.options]\ncodebook_size = 16", voice).replace("rounds = 2\ndead", "rounds = 1\ndead")
    simulated, sites = _simulated(network, corpus, name, text + NO_AUDIT), seeded(network)
    return Encoders(request.param, simulated, network.study(name, text + NO_AUDIT, *chosen(*SITES)).wait(), sites)


def _certificate_ends(site: Site) -> float:
    """0 while its state is not known."""
    return float(site.state().get("certificate_ends", 0.0))


@pytest.fixture(scope="session")
def undisturbed(network: Network) -> StudyRun:
    """Noise from the seed, and every certificate renewed in the middle of the first round."""
    sites = seeded(network)
    for site in sites:
        site.sabotage(hold=[1])
    run = network.study("undisturbed", STUDY + AUDIT, *chosen(*SITES))
    until(lambda: any(training(site, run, 1) for site in sites), "a site that trains")
    before = [until(partial(_certificate_ends, site), "a site's certificate") for site in sites]
    for site in sites:
        network.moretta("site", "renew", "--home", str(site.home))
    until(
        lambda: all(_certificate_ends(s) > b for s, b in zip(sites, before, strict=True)),
        "renewed certificates in use",
    )
    assert not run.command.reported("train voice: 1/2")
    seeded(network)
    return run.wait()


@dataclass
class Killed:
    """A study whose server died three times."""

    run: StudyRun
    twice: str
    """Log of the responses that a site sent twice."""


@pytest.fixture(scope="session")
def killed(network: Network) -> Killed:
    """kill -9 of Flower's SuperLink and of the server in the first round, and of all on the server's machine in the
    second: server, Flower, and the study's command. One site responds twice. All sites train at each kill: one that
    was just being sent a message would keep its next reply until it is sent another message, after two minutes.
    """
    sites = seeded(network)
    log = network.root / "twice.log"

    def sabotage(hold: list[int]) -> None:
        for site in sites:
            site.sabotage(hold=hold, **({"twice": str(log)} if site is sites[1] else {}))

    sabotage([1, 2])
    text = STUDY + NO_AUDIT
    run = network.study("killed", text, *chosen(*SITES))
    until(lambda: all(training(site, run, 1) for site in sites), "sites that train")
    network.kill_superlink()
    until(lambda: network.flower("flower-superlink"), "another SuperLink")
    network.kill_server()
    network.start_server()
    assert not run.command.reported("train voice: 1/2")
    sabotage([2])
    run.command.wait_for("train voice: 1/2")
    until(lambda: all(training(site, run, 2) for site in sites), "sites that train")
    network.kill_machine(run)
    assert not run.command.reported("train voice: 2/2")
    sabotage([])
    network.start_server()
    run = network.study("killed", text, *chosen(*SITES), "--resume").wait()
    return Killed(run, log.read_text(encoding="utf-8"))


@dataclass
class Lost:
    """Two studies, in the training of which one site was killed."""

    continued: StudyRun
    retried: StudyRun
    site: Site


@pytest.fixture(scope="session")
def lost(network: Network) -> Lost:
    """kill -9 of a whole site while it trains: one study goes on without it, the next waits for it."""
    text = STUDY.replace("rounds = 2", "rounds = 1") + NO_AUDIT
    # One after the other: a site that holds one study's round back would release nothing for the other
    continued = _with_a_killed_site(network, "continued", text.replace('"retry"', '"continue"'))
    retried = _with_a_killed_site(network, "retried", text)
    return Lost(continued, retried, seeded(network)[2])


def _with_a_killed_site(network: Network, name: str, text: str) -> StudyRun:
    site = seeded(network)[2]
    site.sabotage(hold=[1])
    run = network.study(name, text, *chosen(*SITES))
    until(lambda: training(site, run, 1), "the site at training")
    site.kill()
    miss(network.home, site.name)
    run.command.wait_for("site-02: it was lost")  # a site that came back before that would not have been lost
    site.sabotage()
    site.start()
    return run.wait()


@pytest.fixture(scope="session")
def secure(network: Network, open_sites: list[Site]) -> StudyRun:
    """Secure aggregation, with noise from every site. All that one of them sends is recorded."""
    open_sites[0].sabotage(record=str(network.root / "secure.traffic"))
    more = '[aggregation]\nsecure = true\ndp = "distributed"\n'
    text = STUDY.replace("rounds = 2", "rounds = 1").replace('"retry"', '"continue"') + NO_AUDIT + more
    run = network.study("secure", text, *chosen(*OPEN_SITES))
    try:
        return run.wait()
    finally:
        open_sites[0].sabotage()


@dataclass
class Hostile:
    """A study with one sound site, two that send bad updates, one whose anonymizer fails and one that is revoked."""

    run: StudyRun
    sound: Site
    failing: Site
    recorded: dict[str, bytes] = field(default_factory=dict)
    """All that a site sent to its server, by site."""
    audit: list[dict[str, Any]] = field(default_factory=list)
    """The server's audit log."""


@pytest.fixture(scope="session")
def hostile(network: Network, open_sites: list[Site], own_clips: Site, corpus: Path) -> Hostile:
    """Two sites send what no server may aggregate, another kind in each round; one site's anonymizer fails on every
    clip; one is revoked in the first round. Noise from the operating system.
    """
    failing = own_clips
    revoked = network.join("gone-00", corpus, speakers=("1001", "1002"), held_out=("1001",))
    try:
        revoked.start()
        revoked.wait_online()
        for site in (open_sites[0], failing):
            site.sabotage(record=str(network.root / f"{site.name}.traffic"), anonymizer=site is failing)
        open_sites[1].sabotage(updates=["nan", "extra", "oversized"])
        open_sites[2].sabotage(updates=["shape", "truncated", "huge"])
        revoked.sabotage(hold=[1])
        text = STUDY.replace("rounds = 2", "rounds = 3") + NO_AUDIT
        run = network.study("hostile", text, *chosen(*OPEN_SITES, failing.name, revoked.name))
        until(lambda: training(revoked, run, 1), "the site at training")
        network.moretta("server", "revoke", revoked.name, "--server", str(network.home))
        run.wait()
    finally:
        revoked.stop()
        for site in (*open_sites, failing):
            site.sabotage()
    recorded = {s.name: (network.root / f"{s.name}.traffic").read_bytes() for s in (open_sites[0], failing)}
    log = (network.home / "audit.jsonl").read_text(encoding="utf-8")
    return Hostile(run, open_sites[0], failing, recorded, [json.loads(line) for line in log.splitlines()])


@dataclass
class Left:
    """One study run twice; a person's clips were deleted in between, and another person withdrew after it."""

    first: StudyRun
    second: StudyRun
    site: Site
    withdrawn: dict[str, Any]


LEAVING = """
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


@pytest.fixture(scope="session")
def left(network: Network, open_sites: list[Site], own_clips: Site, hostile: Hostile) -> Left:
    del hostile  # which needs the clips that go now
    names = (open_sites[0].name, own_clips.name)
    first = network.study("leaving", LEAVING, *chosen(*names)).wait()
    for path in (own_clips.corpus / "AudioWAV").glob("1004_*"):
        path.unlink()
    table = own_clips.corpus / "VideoDemographics.csv"
    rows = table.read_text("utf-8").splitlines()
    table.write_text("\n".join(row for row in rows if not row.startswith("1004")) + "\n", "utf-8")
    second = network.study("leaving", LEAVING, *chosen(*names), again="-again").wait()
    reported = network.moretta("site", "withdraw", "1005", "--home", str(own_clips.home), "--yes", "--json")
    return Left(first, second, own_clips, json.loads(reported))
