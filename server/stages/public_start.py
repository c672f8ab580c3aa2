"""Stage train on public people: the weights that the first round of federated training starts from.

No clip of a site has a part in them, so no epsilon counts them. They stay in the run's folder, and a run that goes on
trains them no second time.
"""

from __future__ import annotations

import numpy as np
from safetensors.numpy import load_file, save

from moretta.server.stages.run import Arrays, Releases, RunContext
from moretta.shared.audit.inference.trained_models import Recipe
from moretta.shared.audit.public_people import people_by_modality, public_corpus, public_release
from moretta.shared.audit.report.report_schema import PublicStart, emotion_result
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.device import computing_on
from moretta.shared.core.errors import RefusedError, StudyError
from moretta.shared.core.reproducibility import derive
from moretta.shared.core.terms import Modality
from moretta.shared.data.reader import read_corpus

STAGE = "train on public people"
Starts = dict[Modality, PublicStart]


def train_on_public(context: RunContext, public: Arrays) -> Starts:
    """Train each model on releases of public people by the study's anonymizer, centrally and without noise.

    Optimizer, rate, batches and passes over the clips are those of all rounds of the study together.

    Returns how many people and clips each model has learned from. A modality that no public person has is left out,
    with a warning. So are clips that cannot be used.

    Raises:
        CorpusError: see `public_corpus`.
        StudyError: see `public_corpus` and `public_release`; or a class has no usable clip, or training diverged.
    """
    from moretta.shared.models.emotion import PublicScale, checked_weights, study_model

    study, originals, starts = context.study, context.plan.originals(), Starts()
    others = None if originals is None else read_corpus(originals.corpus, labels=study.labels, classes=study.classes)
    corpus = public_corpus(study, "train", others)
    assert corpus is not None, "only a study that names public people has this stage"
    there, scale, train = people_by_modality(study, corpus), PublicScale.of(public), study.train
    epochs = train.rounds * train.local_epochs
    for modality in study.modalities:
        if modality not in there:
            context.warn(f"the {modality} model starts from the seed: no public person of [train] has {modality}")
            continue
        model, made = study_model(study, modality), public_release(study, public, corpus, modality)
        if absent := [name for name in study.classes if name not in {clip.label for clip in made.clips}]:
            raise StudyError(
                f"no public clip of {', '.join(absent)} with {modality} can be used",
                expected="released clips of every class of the study, for a model to learn from",
                fix="add such clips, correct `public` in [train], or leave it out",
            )
        if unused := made.tried - len(made.clips):
            context.warn(f"public people of [train]: {unused} of {made.tried} clips with {modality} cannot be used")
        form, codebook = made.anonymizer.form, made.anonymizer.codebook
        x = np.stack([model.input_of(form, array, codebook, scale) for array in made.arrays])
        y = np.array([study.classes.index(clip.label) for clip in made.clips], np.int64)
        recipe = Recipe(model, train.learning_rate, train.batch_size, epochs, train.optimizer, max_steps=None)
        with computing_on(study.run.device):
            network = recipe.network(x, y, derive(study.seed, "public people", modality))
        weights = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
        try:
            checked_weights(model, weights)  # as each site does, but before it has released anything
        except RefusedError as error:
            raise StudyError(
                f"training of the {modality} model on public people did not converge: {error.found}",
                expected="a learning rate that suits training without noise and without clipped gradients",
                fix="lower `learning_rate` in [train], or leave `public` out",
            ) from error
        write_atomic(context.public_start(modality), save(weights))
        starts[modality] = PublicStart(people=len({clip.speaker for clip in made.clips}), clips=len(made.clips))
        context.notify(stage=STAGE, state="note", what=f"{len(made.clips)} public clips of {modality}")
    return starts


def with_test(context: RunContext, releases: Releases, public: Arrays, starts: Starts) -> Starts:
    """The same, each with the result of the public model on the study's test people.

    The server has their released clips: no site takes part, and nobody spends anything.
    """
    from moretta.shared.models.emotion import study_model
    from moretta.shared.models.outputs import log_probabilities

    study, held_out, tested = context.study, releases.held_out(context.plan), Starts()
    for modality, start in starts.items():
        model = study_model(study, modality)
        pairs = [
            (x, clip)
            for x, clip in releases.model_inputs(public, modality, model)
            if clip.speaker in held_out and clip.emotion in study.classes
        ]
        if not pairs:
            tested[modality] = start
            continue
        result = emotion_result(
            log_probabilities(model, load_file(context.public_start(modality)), np.stack([x for x, _ in pairs])),
            [study.classes.index(clip.emotion) for _, clip in pairs],
            [clip.speaker for _, clip in pairs],
            seed=derive(study.seed, "emotion intervals"),
            model=model.name,
            classes=study.classes,
        )
        tested[modality] = start.model_copy(update={"result": result})
    return tested
