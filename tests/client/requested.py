"""An enrolled site and requests to it, as one run of a study after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from enrolled import TRUSTED, approve
from flwr.app import Context, Message, RecordDict
from flwr.app.metadata import Metadata

from moretta.client.app import app
from moretta.client.site_home import SiteHome
from moretta.shared.messages import wire
from moretta.shared.study.schema import Study, parse_study

POLICY = f"max_training_epsilon = inf\nmin_clips = 1\n{TRUSTED}[budget]\nmodel_clip = inf\nmodel_speaker = inf\n"
WEIGHTS = {
    "0.mean": np.zeros(78, np.float32),
    "0.std": np.ones(78, np.float32),
    "2.weight": np.zeros((6, 78), np.float32),
    "2.bias": np.zeros(6, np.float32),
}
CHANGED = "the site's clips have changed since its release"


@dataclass
class RequestStage:
    """Asks an enrolled site, as one run after the other."""

    home: SiteHome
    corpus: Path
    public: dict[str, Any]
    run: int = 1
    study: Study = field(
        default_factory=lambda: parse_study(
            {"sites": 2, "face": {"enabled": False}, "train": {"rounds": 3}, "voice": {"codebook_size": 16}}
        )
    )

    def call(self, kind: str, content: RecordDict) -> dict[str, Any]:
        metadata = Metadata(self.run, "m", 0, 5, "", "", 1e9, 1e9, kind)
        context = Context(self.run, 5, {"site-home": str(self.home.root)}, RecordDict(), {})
        config = app(Message(content, metadata=metadata), context).content[wire.CONFIG]
        return {key: wire.from_config(RecordDict({wire.CONFIG: config}), key) for key in config}  # type: ignore[dict-item]

    def release(self) -> dict[str, Any]:
        digest = approve(self.home, self.study, self.public)
        return self.call(wire.RELEASE, RecordDict({wire.CONFIG: wire.study_config(self.study, approval=digest)}))

    def fetch(self, name: str = "clips.jsonl") -> dict[str, Any]:
        return self.call(wire.FETCH, RecordDict({wire.CONFIG: wire.study_config(self.study, parts=[[name, 0, 9]])}))

    def train(self, number: int = 1) -> dict[str, Any]:
        content = RecordDict({wire.CONFIG: wire.study_config(self.study), wire.ARRAYS: wire.arrays_to_record(WEIGHTS)})
        content[wire.CONFIG]["server-round"] = number  # type: ignore[index]
        return self.call(wire.TRAIN["voice"], content)

    def evaluate(self) -> dict[str, Any]:
        content = RecordDict({wire.CONFIG: wire.study_config(self.study)})
        content[f"{wire.ARRAYS}-voice"] = wire.arrays_to_record(WEIGHTS)
        return self.call(wire.EVALUATE, content)

    def count(self) -> tuple[int, int]:
        statement = self.release()["statement"]
        return statement["clips"], statement["speakers"]

    @property
    def folder(self) -> Path:
        return self.home.root / "release" / self.study.digest()[:16]

    def clips(self, start: str) -> list[Path]:
        return sorted((self.corpus / "AudioWAV").glob(f"{start}*.wav"))

    def delete(self, start: str) -> None:
        for path in self.clips(start):
            path.unlink()
        table = self.corpus / "VideoDemographics.csv"
        kept = [line for line in table.read_text("utf-8").splitlines() if not line.startswith(start)]
        table.write_text("\n".join(kept) + "\n", "utf-8")
