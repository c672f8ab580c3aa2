"""What a result depends on, as one digest: equal digest, equal figures, whichever sweep made them."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from moretta.shared.core.reproducibility import code_digest, versions
from moretta.shared.data.clips import Corpus
from moretta.shared.study.schema import AuditSection, FaceSection, PrivacySection, Study
from moretta.shared.study.voice import VoiceSection

MODEL_KEYS = ("model", "weight")
"""Of `[voice]` and `[face]`: they say how a release is used, not how it is made."""


def release_study(study: Study) -> Study:
    """The study with everything at its default that does not change what sites release.

    Training, its budget, the split and the attackers come after: studies that differ in these alone share a release.
    """
    return Study(
        seed=study.seed,
        labels=study.labels,
        sites=study.sites,
        voice=study.voice.model_copy(update=_defaults(VoiceSection())),
        face=study.face.model_copy(update=_defaults(FaceSection())),
        privacy=PrivacySection(dp_sgd=False),
        audit=AuditSection(attributes=study.audit.attributes),
    )


def training_study(study: Study) -> Study:
    """The study with everything at its default that changes no model: its name, its gate, its attackers.

    Without DP-SGD the budget is never looked at.
    """
    private = study.privacy if study.privacy.dp_sgd else PrivacySection(dp_sgd=False, delta=study.privacy.delta)
    plain = Study()
    audit = AuditSection(enabled=False, attributes=study.audit.attributes)
    return study.model_copy(update={"name": plain.name, "gate": plain.gate, "audit": audit, "privacy": private})


def audit_study(study: Study) -> Study:
    """What attackers are told, beside the release. Attacks beyond identity are no part of a sweep."""
    audit = study.audit.model_copy(update={"inference": False})
    return release_study(study).model_copy(update={"audit": audit})


def key_of(kind: str, study: Study, corpus: str, *more: str) -> str:
    """40 hexadecimal digits: of a kind of work, its study and the files that names, the corpus, and the code it is."""
    files = [named_digest(path) for path in (study.voice.public_speech, study.face.weights)]
    content: list[Any] = [kind, study.model_dump(mode="json"), corpus, files, _environment(), more]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]


def corpus_digest(corpus: Corpus) -> str:
    """SHA-256 over names and contents of all that a corpus was read from, hexadecimal."""
    files = {path for clip in corpus.clips for path in (clip.audio, clip.video) if path is not None}
    files |= {path for path in corpus.root.iterdir() if path.is_file()}  # demographics, votes
    digest = hashlib.sha256(json.dumps(sorted(str(drop) for drop in corpus.dropped)).encode())
    for path in sorted(files):
        digest.update(f"{path.relative_to(corpus.root).as_posix()}\0{_sha256(path)}\n".encode())
    return digest.hexdigest()


@cache
def named_digest(path: Path | None) -> str:
    """SHA-256 over a file, or over all files of a folder by name; empty if there is none."""
    if path is None:
        return ""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return hashlib.sha256("\n".join(f"{file.name}\0{_sha256(file)}" for file in files).encode()).hexdigest()


def instruments() -> str:
    """Which attackers and judges can be asked on this machine: with weights fetched since, an audit says more."""
    from moretta.shared.audit.attackers import attacker_names, get_attacker
    from moretta.shared.audit.utility.evaluators import evaluator_names, get_evaluator

    attackers = {name: get_attacker(name).missing() is None for name in attacker_names()}
    evaluators = {name: get_evaluator(name).missing() is None for name in evaluator_names()}
    return json.dumps([attackers, evaluators], sort_keys=True)


def _defaults(section: VoiceSection | FaceSection) -> dict[str, Any]:
    return {key: getattr(section, key) for key in MODEL_KEYS if hasattr(section, key)}


@cache
def _environment() -> str:
    return json.dumps([code_digest(), versions()], sort_keys=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
