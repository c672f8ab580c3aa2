from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moretta.server.stages.audit import attack_training, membership_examples
from moretta.server.stages.run import Run, RunContext, SiteFacts
from moretta.server.stages.train import keep_update
from moretta.shared.audit.inference.shadow_sites import ATTACKER
from moretta.shared.audit.inference.trained_models import TARGET, Recipe
from moretta.shared.audit.result import Result
from moretta.shared.core.labels import EMOTIONS
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.models.emotion import emotion_model, initial_weights
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter, open_release
from moretta.shared.study.run_plan import PlannedSite, SimulationPlan
from moretta.shared.study.schema import Study

SITES, SPEAKERS, CLIPS = 8, 2, 8


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Eight sites of two speakers of one sex. Clips and emotions are noise: only memorised examples show."""
    sites = tuple(PlannedSite(name=f"site-{i:02d}", speakers=(2 * i, 2 * i + 1)) for i in range(SITES))
    held_out, rest = tuple(range(1, 2 * SITES, 2)), tuple(range(0, 2 * SITES, 2))
    plan = SimulationPlan(
        corpus=tmp_path,
        corpus_name="c",
        synthetic=True,
        study=Study().with_changes(audit__bootstrap=40),
        sites=sites,
        folds=(held_out, rest),
        command="moretta simulate",
    )
    made, rng = Run(RunContext(tmp_path, plan)), np.random.default_rng(0)
    made.training.trained = ("voice",)
    keys = plan.pseudonym_keys()
    for number, site in enumerate(sites):
        writer = ReleaseWriter(tmp_path / site.name, forms={"voice": "mfcc"})
        for speaker in site.speakers:
            for clip in range(CLIPS):
                meta = ReleasedClip(
                    clip=keys[speaker].clip(f"{speaker} {clip}"),
                    speaker=keys[speaker].speaker(speaker),
                    emotion=EMOTIONS[rng.integers(6)],
                    sentence="IEO",
                    level=Level.XX,
                    sex="female" if number % 2 else "male",
                )
                writer.add(meta, {"voice": rng.normal(size=(20, 13)).astype(np.float32)})
        statement = AnonymizerStatement(
            modality="voice", name="n", version="1", form="mfcc", parameters={}, noise="none"
        )
        writer.finish(site=site.name, study=plan.study.digest(), anonymizers=(statement,))
        made.releases.kept[site.name] = open_release(tmp_path / site.name)
    return made


def attacked(run: Run) -> list[Result]:
    return attack_training(run.context, run.releases, run.public, run.training.trained)


def learn(run: Run, *, epochs: int) -> None:
    """Put a model at the server that has seen the members' clips so often."""
    model = emotion_model("voice", run.context.study.voice.model)
    examples = membership_examples(run.context, run.releases, run.public, "voice", model)
    x, y = examples.x[examples.member], examples.y[examples.member]
    weights = Recipe(model, 0.3, 16, epochs).network(x, y, 1).state_dict()
    run.context.checkpoint("voice").parent.mkdir(parents=True)
    save_file({name: tensor.numpy() for name, tensor in weights.items()}, run.context.checkpoint("voice"))


def auc(found: list[Result], attacker: str) -> Result:
    return next(f for f in found if f.metric == "auc" and f.attacker == attacker)


def test_a_model_that_learnt_by_heart_gives_its_members_away(run: Run) -> None:
    learn(run, epochs=60)
    found = [f for f in attacked(run) if f.attack == "membership"]
    best = auc(found, "lira online")
    assert best.leaks and best.value is not None and best.value > 0.75 and best.speakers == 2 * SITES
    assert all("speaker-level" in f.note for f in found if f.metric == "auc")
    rates = [f for f in found if f.metric == "tpr_at_fpr_01pct"]
    assert rates and all(f.invalid and f.value is None and "1000 are needed" in f.reason for f in rates)


def test_a_model_that_learnt_nothing_gives_nobody_away(run: Run) -> None:
    model = emotion_model("voice", run.context.study.voice.model)
    inputs = np.stack([x for x, _ in run.releases.model_inputs({}, "voice", model)])
    run.context.checkpoint("voice").parent.mkdir(parents=True)
    save_file(
        {n: t.numpy() for n, t in initial_weights(model, inputs, seed=0).items()}, run.context.checkpoint("voice")
    )
    assert not any(f.leaks for f in attacked(run))


def test_the_sex_that_updates_carry_is_found_by_layer(run: Run) -> None:
    rng = np.random.default_rng(1)
    for number, site in enumerate(sorted(run.releases.kept)):
        path = run.context.update("voice", site)
        path.parent.mkdir(parents=True, exist_ok=True)
        reported = rng.normal(size=(6, 40)) + 3 * (number % 2)
        save_file({"reported": reported, "noise": rng.normal(size=(6, 40)), "fixed": np.zeros(4)}, path)
    by_layer = {f.layer: f for f in attacked(run) if f.target == "sex" and f.attacker == "logistic regression"}
    assert by_layer.keys() == {"reported", "noise", "all layers"}  # a layer that nobody changed says nothing
    assert by_layer["reported"].value == 1.0 and by_layer["reported"].speakers == SITES


def test_shadow_sites_are_made_of_released_clips_and_read_the_kept_updates(run: Run) -> None:
    learn(run, epochs=1)
    trained = load_file(run.context.checkpoint("voice"))
    rng = np.random.default_rng(1)
    for site in run.releases.kept:
        path = run.context.update("voice", site)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: rng.normal(size=array.shape) for name, array in trained.items()}, path)
    found = [f for f in attacked(run) if f.attacker == ATTACKER]
    assert {f.layer for f in found} == {"2.weight", "2.bias", "all layers"}  # the standardisation is not trained
    assert all(not f.invalid and f.speakers == SITES and f.chance == 0.5 and f.attack == "updates" for f in found)
    for path in run.context.update("voice", "site-00").parent.glob("*"):
        path.unlink()
    (none,) = [f for f in attacked(run) if f.attacker == ATTACKER]
    assert none.invalid and "no site's update is kept" in none.reason


def test_few_sites_and_a_missing_checkpoint_are_invalid_findings(run: Run) -> None:
    found = attacked(run)
    reasons = {(f.attack, f.target): f.reason for f in found}
    assert all(f.invalid for f in found)
    assert "at least 6 are needed" in reasons["updates", "sex"]
    assert "one update" in reasons["updates", "speaker"]
    assert "FileNotFoundError" in reasons["membership", TARGET]


def test_only_the_last_rounds_updates_are_kept_and_only_to_be_attacked(run: Run) -> None:
    last, change = run.context.study.train.rounds, {"w": np.ones(3, np.float32)}
    keep_update(run.context, "voice", last - 1, "site-00", lambda: change)
    assert not run.context.update("voice", "site-00").exists()
    keep_update(run.context, "voice", last, "site-00", lambda: change)
    assert np.array_equal(load_file(run.context.update("voice", "site-00"))["w"], change["w"])
    plan = run.context.plan.model_copy(update={"study": run.context.study.with_changes(audit__inference=False)})
    keep_update(RunContext(run.context.folder, plan), "voice", last, "site-01", lambda: change)
    assert not run.context.update("voice", "site-01").exists()


def test_clips_of_a_site_that_no_round_was_sent_to_are_no_members(run: Run) -> None:
    """As found: they counted as members, so that a share of the sites made every membership attack look weaker."""
    for site in run.releases.kept:
        run.releases.facts[site] = SiteFacts(training={"voice": CLIPS})
    model = emotion_model("voice", run.context.study.voice.model)

    def members() -> int:
        return int(membership_examples(run.context, run.releases, run.public, "voice", model).member.sum())

    assert members() == SITES * CLIPS  # of an older run nobody knows
    run.context.progress.learned_from["voice"] = ["site-00", "site-05"]
    assert members() == 2 * CLIPS


@pytest.mark.parametrize(("share", "epochs"), [(1.0, 20), (0.25, 5)])
def test_shadow_models_see_each_clip_as_often_as_the_attacked_model_did(
    run: Run, monkeypatch: pytest.MonkeyPatch, share: float, epochs: int
) -> None:
    learn(run, epochs=1)
    seen: list[Recipe] = []

    def infer(_: object, recipe: Recipe, *__: object, **___: object) -> list[Result]:
        seen.append(recipe)
        return []

    monkeypatch.setattr("moretta.shared.audit.inference.trained_models.infer_membership", infer)
    changes = {"train__rounds": 10, "train__local_epochs": 2, "train__fraction_train": share}
    plan = run.context.plan.model_copy(update={"study": run.context.study.with_changes(**changes)})
    attack_training(RunContext(run.context.folder, plan), run.releases, run.public, ("voice",))
    assert [recipe.epochs for recipe in seen] == [epochs]


def test_shadow_models_start_from_public_people_where_the_attacked_model_did(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(run, epochs=1)
    run.context.public_start("voice").write_bytes(run.context.checkpoint("voice").read_bytes())
    firsts: list[dict[str, np.ndarray]] = []

    def watched(_: object, recipe: Recipe, *__: object, **___: object) -> list[Result]:
        firsts.append({name: tensor.numpy() for name, tensor in Recipe.network(recipe, X, Y, 1).state_dict().items()})
        return []

    X, Y = np.zeros((0, 78), np.float32), np.zeros(0, np.int64)  # nothing to learn from: the weights stay
    monkeypatch.setattr("moretta.shared.audit.inference.trained_models.infer_membership", watched)
    attacked(run)
    wanted = load_file(run.context.public_start("voice"))
    assert len(firsts) == 1
    assert all(np.array_equal(firsts[0][name], wanted[name]) for name in wanted)
