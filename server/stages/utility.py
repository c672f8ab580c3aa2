"""Stage central check: the original project's random forest on voice releases, trained centrally.

It spends nothing: it only looks at what was released already. It tells what federation and DP-SGD cost.
"""

from __future__ import annotations

import numpy as np

from moretta.server.stages.model_inputs import model_inputs
from moretta.server.stages.run_context import Run
from moretta.shared.audit.report.emotion import emotion_result
from moretta.shared.core.seeds import derive
from moretta.shared.data.clip_names import EMOTIONS

TREES = 300


def central_check(run: Run, rates: dict[str, float]) -> None:
    """Cross-validate a random forest over speaker-disjoint folds of all released voice clips."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GroupKFold

    from moretta.shared.models.emotion import emotion_model

    if "voice" in run.absent:
        return
    pairs = list(model_inputs(run, "voice", emotion_model("voice", "statistics")))
    features = np.stack([x for x, _ in pairs])
    labels = np.array([clip.emotion.class_index for _, clip in pairs])
    speakers = np.array([clip.speaker for _, clip in pairs])
    folds = min(run.study.split.folds, len(set(speakers)))
    if folds < 2:
        run.warn("the central check needs two speakers")
        return
    scores = np.zeros((len(labels), len(EMOTIONS)))
    for train, test in GroupKFold(folds).split(features, labels, speakers):
        seed = derive(run.study.seed, "central check") % 2**31
        forest = RandomForestClassifier(TREES, random_state=seed, n_jobs=1).fit(features[train], labels[train])
        scores[np.ix_(test, forest.classes_)] = forest.predict_proba(features[test])
    run.central = emotion_result(
        scores, labels, speakers.tolist(), seed=derive(run.study.seed, "emotion intervals"), model="random forest"
    )
    rates["clips"] = len(labels)
