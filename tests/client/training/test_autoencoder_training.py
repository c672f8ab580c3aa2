"""Sites train encoders of published systems by the one path of training: sensitivity, ledger, and what is released."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from planted import planted_clips, planted_encoder, planted_people, planted_voices

from moretta.client.accounting.account import Account
from moretta.client.accounting.ledger import Ledger
from moretta.client.anonymizers import adversarial_embedding, unlearnt_gender
from moretta.client.clips.release import make_release
from moretta.client.clips.site_clips import site_corpus
from moretta.client.settings import SiteSettings
from moretta.client.training import code_training
from moretta.client.training.code_training import _examples
from moretta.client.training.data import CODE_KIND
from moretta.client.training.dp_sgd import Noiseless
from moretta.client.training.rounds import RoundRequest, train_round
from moretta.shared.core.errors import RefusedError, StudyError
from moretta.shared.features import speaker_code
from moretta.shared.features.federated_encoder import SiteTraining
from moretta.shared.features.prosodic_features import MEASUREMENTS
from moretta.shared.models.unlearnt_gender import SIZES
from moretta.shared.privacy.accounting import training_step
from moretta.shared.release.anonymizer import anonymizer_of, prepare_public, site_training_of
from moretta.shared.study.schema import Study, parse_study
from tests.two_modalities import corpus_of_two_modalities

DELTA = 1e-5
OPTIONS = {"code_training": "federated", "code_epsilon": 3.0, "code_rounds": 2, "epochs": 10}
REPLACEMENT, UNLEARNT, EMBEDDING = "replacement-autoencoder", "unlearnt-gender", "adversarial-embedding"
SYSTEMS: dict[str, dict[str, str]] = {
    "replacement": {"voice": REPLACEMENT},
    "unlearnt-voice": {"voice": UNLEARNT},
    "unlearnt-face": {"face": UNLEARNT},
    "unlearnt-both": {"voice": UNLEARNT, "face": UNLEARNT},
    "embedding": {"voice": EMBEDDING},
}


@dataclass
class System:
    """One system, and what this corpus' sites train."""

    name: str
    study: Study
    public: dict[str, Any]
    site: SiteSettings

    def everybody(self, home: Path) -> SiteSettings:
        return replace(self.site, speakers=("1001", "1002", "1003", "1004"), held_out=frozenset(), home=home)

    def training(self, study: Study | None = None) -> SiteTraining:
        found = site_training_of(study or self.study)
        assert found is not None
        return found

    @property
    def first(self) -> dict[str, Any]:
        return self.training().first_arrays(self.public)

    def weights(self, arrays: dict[str, Any]) -> list[str]:
        """Of the network, in its order."""
        return [*dict(self.training().encoder(arrays, 1).network().named_parameters())]

    def with_options(self, **changes: Any) -> Study:
        return self.study.with_changes(
            **{f"{m}__options__{key}": value for m in SYSTEMS[self.name] for key, value in changes.items()}
        )


def study_of(sections: dict[str, str], **options: Any) -> Study:
    content: dict[str, Any] = {"sites": 2, "split": {"folds": 2}}
    for modality in ("voice", "face"):
        name = sections.get(modality)
        content[modality] = {"enabled": False} if name is None else {"anonymizer": name, "options": OPTIONS | options}
    return parse_study(content)


class Middle:
    """Stands in for a cropper, to which stripes are no face."""

    def crop_clip(self, frames: Any) -> Any:
        small = np.stack([cv2.resize(frame, (48, 48)) for frame in frames])
        return SimpleNamespace(pictures=small, centred=False)


@pytest.fixture(scope="module")
def public_of() -> dict[str, dict[str, Any]]:
    """Public arrays, which are made once."""
    return {}


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus_of_two_modalities(tmp_path_factory.mktemp("two") / "corpus")


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Little public speech, and public people who are planted."""
    rows, voices = planted_people(), planted_voices(width=256)
    monkeypatch.setattr(speaker_code, "_measured_public_speech", lambda *_: rows)
    monkeypatch.setattr(unlearnt_gender, "_public_clips", lambda modalities, _: planted_clips(modalities, each=6))
    monkeypatch.setattr(unlearnt_gender, "cropper_of", lambda _: Middle())
    monkeypatch.setattr(adversarial_embedding, "embedded", lambda *_: voices)
    unlearnt_gender._trained.cache_clear()
    with planted_encoder():
        yield
    unlearnt_gender._trained.cache_clear()


@pytest.fixture(params=SYSTEMS)
def system(request: Any, simulated: Any, filmed: Path, public_of: dict[str, dict[str, Any]]) -> System:
    sections = SYSTEMS[request.param]
    study = study_of(sections, **({"epochs": 1} if UNLEARNT in sections.values() else {}))
    if request.param not in public_of:
        public_of[request.param] = prepare_public(study)
    site = simulated.site()
    if "face" in sections:
        site = replace(site, corpus=filmed)
    return System(request.param, study, public_of[request.param], site)


def trained(site: SiteSettings, study: Study, arrays: dict[str, Any], number: int = 1) -> dict[str, Any]:
    return dict(train_round(site, RoundRequest(study, "code", number, arrays)).arrays)


def plain_step(system: System, site: SiteSettings, study: Study, arrays: dict[str, Any]) -> list[torch.Tensor]:
    """Weights after one step on all units, by autograd, one unit after another."""
    training = system.training(study)
    encoder, (corpus, clips) = training.encoder(arrays, 1), site_corpus(site, study)
    unit = training.plan.unit
    examples, _ = _examples(site, study, clips, training.measure, encoder, unit=unit, speakers=corpus.speakers)
    network = encoder.network()
    parameters = [*network.parameters()]
    summed, units = [torch.zeros_like(each) for each in parameters], np.unique(examples.owners)
    for owner in units:
        own = torch.from_numpy(np.flatnonzero(examples.owners == owner))
        loss = encoder.losses(network(examples.features[own]), examples.labels[own]).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum(each.square().sum() for each in gradients))  # type: ignore[arg-type]
        for total, each in zip(summed, gradients, strict=True):
            total.add_(each * min(1.0, 1 / float(norm)))
    pairs = zip(parameters, summed, strict=True)
    return [(each - training.learning_rate * total / len(units)).detach() for each, total in pairs]


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_sites_without_noise_make_together_the_step_of_a_plain_loop_over_all_their_clips(
    system: System, tmp_path: Path, unit: str
) -> None:
    """Both sites have people of one sex, and their mean by units is what one site of all people would do."""
    study = system.with_options(code_epsilon=0.0, code_unit=unit)
    arrays, whole = system.first, system.everybody(tmp_path / "whole")
    names = system.weights(arrays)
    expected = plain_step(system, whole, study, arrays)
    responses = [
        train_round(replace(whole, speakers=people, home=tmp_path / people[0]), RoundRequest(study, "code", 1, arrays))
        for people in (("1001", "1003"), ("1002", "1004"))
    ]
    units = [response.metrics["num-examples"] for response in responses]
    for name, wanted in zip(names, expected, strict=True):
        found = sum(r.arrays[name] * count for r, count in zip(responses, units, strict=True)) / sum(units)
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-5)
        assert not np.array_equal(found, arrays[name]) or not np.any(wanted.numpy() - arrays[name])
    for response in responses:
        for name in arrays.keys() - set(names):
            np.testing.assert_array_equal(response.arrays[name], arrays[name])


@pytest.fixture
def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_training, "_randomness", lambda *_: Noiseless())


def summed(system: System, site: SiteSettings, study: Study, arrays: dict[str, Any]) -> np.ndarray:
    """The sum of clipped gradients that a response holds where no noise is added."""
    response = train_round(site, RoundRequest(study, "code", 1, arrays))
    moved = [(arrays[name].astype(float) - response.arrays[name]).ravel() for name in system.weights(arrays)]
    return np.concatenate(moved) / system.training().learning_rate * response.metrics["num-examples"]


def test_what_a_clip_is_trained_on_and_towards_depends_on_that_clip_alone(system: System) -> None:
    encoder, labels, sexes = system.training().encoder(system.first, 1), np.array([2, 0, 2, 5]), ["male", "female"] * 2
    sizes = {"replacement": len(MEASUREMENTS), "embedding": 256}
    width = sizes.get(system.name) or sum(SIZES[m] for m in system.study.trained_modalities)
    values = np.random.default_rng(5).normal(scale=3, size=(4, width)).astype(np.float32)
    together = encoder.normalized(values, unit="clip")
    towards = encoder.targets(together, labels, sexes)
    assert len({row.numpy().tobytes() for row in towards}) > 2
    for row in range(4):
        alone = encoder.normalized(values[row : row + 1], unit="clip")
        np.testing.assert_array_equal(alone, together[row : row + 1])
        found = encoder.targets(alone, labels[row : row + 1], sexes[row : row + 1])
        np.testing.assert_array_equal(found, towards[row : row + 1])


@pytest.mark.usefixtures("noiseless")
@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_no_unit_moves_the_sum_by_more_than_the_norm(system: System, tmp_path: Path, unit: str) -> None:
    """Clips of the sensitive emotion, too: the donor of one does not depend on what other clips there are."""
    study, arrays = system.with_options(code_unit=unit), system.first
    whole = summed(system, system.everybody(tmp_path / "whole"), study, arrays)
    for number, gone in enumerate(("1001_*_FEA_*", "1003_*_ANG_*") if unit == "clip" else ("1001_*", "1004_*")):
        paths = sorted(system.site.corpus.glob(f"*/{gone}.*"))
        paths = [path for path in paths if unit == "speaker" or path.stem == paths[0].stem]
        contents = {path: path.read_bytes() for path in paths}
        for path in paths:
            path.unlink()
        moved = np.linalg.norm(whole - summed(system, system.everybody(tmp_path / str(number)), study, arrays))
        for path, content in contents.items():
            path.write_bytes(content)
        assert 0.1 < moved <= 1 + 1e-3


@pytest.mark.parametrize("unit", ["clip", "speaker"])
def test_noise_is_on_every_weight_and_all_rounds_cost_the_budget_on_the_ledger_for_models_too(
    system: System, unit: Any, tmp_path: Path
) -> None:
    site, study = system.everybody(tmp_path / "home"), system.with_options(code_unit=unit)
    arrays, training = system.first, system.training(study)
    units, step = 46.0 if unit == "clip" else 4.0, training_step(training.plan)
    assert step is not None
    plain = trained(system.everybody(tmp_path / "plain"), system.with_options(code_unit=unit, code_epsilon=0.0), arrays)
    noisy = trained(site, study, arrays)
    names = system.weights(arrays)
    noise = np.concatenate([(noisy[name] - plain[name]).ravel() for name in names])
    expected = training.learning_rate * step.noise_multiplier / units
    assert noise.std() == pytest.approx(expected, rel=0.1)
    assert all(np.any(noisy[name] != plain[name]) for name in names)
    trained(site, study, arrays, 2)
    account = Account.read(Ledger(site.ledger))
    spent = account.epsilon(unit, "server", delta=DELTA)
    assert spent == account.epsilon(unit, "model", delta=DELTA)
    assert spent is not None and 2.5 < spent <= 3.0
    entries = Ledger(site.ledger).entries(CODE_KIND)
    assert [entry["model"] for entry in entries] == [f"{study.trained_modalities[0]}/code"] * 2


def test_speakers_of_unknown_sex_have_no_part_and_a_site_without_others_refuses(system: System, tmp_path: Path) -> None:
    table, arrays = system.site.corpus / "VideoDemographics.csv", system.first
    content = table.read_text(encoding="utf-8")
    try:
        table.write_text(content.replace("1001,", "9001,"), encoding="utf-8")
        site = system.everybody(tmp_path / "home")
        trained(site, system.study, arrays)
        [cohort] = Ledger(site.ledger).entries("cohort")
        assert len(cohort["speakers"]) == 3
        table.unlink()
        with pytest.raises(RefusedError, match="of known sex"):
            trained(system.everybody(tmp_path / "other"), system.study, arrays)
    finally:
        table.write_text(content, encoding="utf-8")


def test_what_sites_trained_is_released_with_figures_of_public_people(system: System) -> None:
    training, study, public = system.training(), system.study, system.public
    arrays = system.first
    for number in (1, 2):
        arrays = trained(system.site, study, arrays, number)
    after = public | training.public_after(public, arrays)
    assert after.keys() == public.keys()
    assert all(training.may_become(name, public.get(name), array) for name, array in after.items())
    for name in training.rounds_arrays:
        assert after[name].tolist() == [2]
        assert not training.may_become(name, public[name], np.array([7], np.int64))
    fixed = public.keys() - training.trained - training.rounds_arrays
    assert all(name.endswith(("/center", "/deviation")) for name in fixed)
    assert not any(training.may_become(name, public[name], public[name] + 1) for name in fixed)
    changed = {name for name in public if not np.array_equal(after[name], public[name])}
    assert changed >= training.rounds_arrays and any("figures" in name for name in changed)
    unchanged = training.public_after(public, None)
    assert unchanged.keys() == training.rounds_arrays
    assert {modality: of_training(study, after, modality) for modality in study.modalities} == {
        modality: ["clip", "speaker"] if modality == study.modalities[0] else [] for modality in study.modalities
    }, "one training is stated once"
    if study.modalities == ("voice",):
        statement = make_release(system.site, study, after).anonymizer("voice")
        assert statement is not None and statement.parameters["code_rounds"] == 2
        assert [p.unit for p in statement.privacy if "federated code" in p.mechanism] == ["clip", "speaker"]


def of_training(study: Study, arrays: dict[str, Any], modality: Any) -> list[str]:
    """Units of the rows that a statement has of training at the sites."""
    rows = anonymizer_of(study, modality).from_study(study, arrays).privacy({"somebody": [1] * 12})
    return [row.unit for row in rows if "federated code" in row.mechanism]


def test_readers_that_were_able_before_are_stated_as_before(system: System) -> None:
    """Nothing was trained without reversal since."""
    training, public = system.training(), system.public
    after = training.public_after(public, system.first)  # as if no step had moved anything
    for name in public:
        if not name.endswith("figures"):
            np.testing.assert_allclose(after[name], [2] if name in training.rounds_arrays else public[name], atol=1e-6)
    [*figures] = [name for name in public if name.endswith("figures")]
    for name in figures:
        known = [0, 1] if system.name == "replacement" else [1]
        np.testing.assert_allclose(after[name][known], public[name][known], atol=0.05)


def test_a_site_without_the_public_network_refuses_with_the_command_and_spends_nothing(
    simulated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of({"voice": EMBEDDING})
    training = site_training_of(study)
    assert training is not None
    arrays = training.first_arrays(prepare_public(study))
    encoder = adversarial_embedding.ENCODERS["ge2e"]
    monkeypatch.setattr(encoder, "missing", lambda: "no weights of ge2e: run `moretta attackers fetch ge2e`")
    adversarial_embedding.public_encoder.cache_clear()
    site = simulated.site()
    with pytest.raises(StudyError, match="the public network 'ge2e'") as caught:
        trained(site, study, arrays)
    assert caught.value.fix == "run `moretta attackers fetch ge2e`"
    assert Ledger(site.ledger).length == 0


@pytest.mark.parametrize(
    ("voice", "face"),
    [
        ({"anonymizer": REPLACEMENT}, {"anonymizer": UNLEARNT}),
        ({"anonymizer": UNLEARNT}, {"anonymizer": UNLEARNT, "options": {"code_rounds": 7}}),
    ],
    ids=["two systems", "other rounds"],
)
def test_a_study_trains_one_encoder(voice: dict[str, Any], face: dict[str, Any]) -> None:
    sections = {
        modality: {"anonymizer": section["anonymizer"], "options": OPTIONS | section.get("options", {})}
        for modality, section in (("voice", voice), ("face", face))
    }
    with pytest.raises(StudyError, match="and a study trains one"):
        parse_study(sections)
    parse_study({**sections, "face": sections["voice"] | {"anonymizer": UNLEARNT, "options": {}}})
