"""A site that responds to `release` and `fetch` from files on disk, for tests of the server's stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import RecordDict

from moretta.shared.core.labels import Emotion
from moretta.shared.data.corpora.cremad import Level
from moretta.shared.messages import wire
from moretta.shared.release import AnonymizerStatement, ReleasedClip, ReleaseWriter
from moretta.shared.study.schema import Study, parse_study

STUDY = parse_study({"face": {"enabled": False}})
Spoil = Callable[[dict[str, Any]], None]


class Site:
    """Answers `release` and `fetch` from files on disk; `spoil` changes what it sends."""

    def __init__(
        self,
        folder: Path,
        number: int,
        *,
        coefficients: int = 13,
        study: Study = STUDY,
        people: int | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> None:
        self.folder, self.name, self.clips = folder, f"site-{number}", 3
        self.spoil_release: Spoil = lambda values: None
        self.spoil_chunk: Spoil = lambda values: None
        self.counts: Any = {}
        self.fetches = 0
        writer = ReleaseWriter(folder, forms={"voice": "mfcc"})
        for index in range(self.clips):
            writer.add(
                ReleasedClip(
                    clip=f"{number:08x}{index:08x}",
                    speaker=f"{number if people is None else people:016x}",
                    emotion=Emotion.SAD,
                    sentence="IEO",
                    level=Level.XX,
                ),
                {"voice": np.full((20, coefficients), index, np.float32)},
            )
        form = AnonymizerStatement(
            modality="voice", name="mfcc-quantizer", version="1", form="mfcc", parameters=parameters or {}, noise="none"
        )
        writer.dropped["voice-silent"] = 1
        self.statement = writer.finish(site=self.name, study=study.digest(), anonymizers=(form,))

    def __call__(self, message: Any) -> RecordDict:
        match message.metadata.message_type:
            case wire.RELEASE:
                values: dict[str, Any] = {
                    "files": {p.name: p.stat().st_size for p in self.folder.iterdir()},
                    "statement": self.statement.model_dump(mode="json"),
                    "training": {"voice": 2},
                }
                self.spoil_release(values)
            case wire.FETCH:
                parts = [wire.FilePart(*part) for part in wire.from_config(message.content, "parts")]
                self.fetches += 1
                chunk = b"".join((self.folder / p.file).read_bytes()[p.offset :][: p.length] for p in parts)
                values = {"chunk": chunk, "sha256": hashlib.sha256(chunk).hexdigest()}
                self.spoil_chunk(values)
            case _:
                values = {"counts": self.counts, "reliability": {}}
        return RecordDict({wire.CONFIG: wire.json_config(site=self.name, **values)})
