"""A reader of another layout, from a package that is installed beside Moretta."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

READER = """
from pathlib import Path

from moretta.shared.data.clips import Clip, Corpus, Speaker
from moretta.shared.data.reader import CorpusReader, corpus_reader


@corpus_reader("shelves")
class Shelves(CorpusReader):
    layout = "shelves/PERSON/LABEL.wav"

    @classmethod
    def recognizes(cls, root):
        return (root / "shelves").is_dir()

    @classmethod
    def read(cls, root, labels):
        files = sorted((root / "shelves").rglob("*.wav"))
        clips = tuple(Clip(f.relative_to(root).as_posix(), f.parent.name, f.stem, audio=f) for f in files)
        return Corpus(root, root.name, False, clips, {c.speaker: Speaker(c.speaker) for c in clips})
"""


def test_a_package_brings_a_reader_by_its_entry_point(tmp_path: Path) -> None:
    package, corpus = tmp_path / "site-packages", tmp_path / "corpus"
    (package / "shelves-1.0.dist-info").mkdir(parents=True)
    (package / "shelves_reader.py").write_text(READER, "utf-8")
    (package / "shelves-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: shelves\nVersion: 1.0\n")
    entry = "[moretta.corpora]\nshelves = shelves_reader\n"
    (package / "shelves-1.0.dist-info" / "entry_points.txt").write_text(entry)
    for name in ("anna/happy.wav", "ben/sad.wav"):
        (corpus / "shelves" / name).parent.mkdir(parents=True, exist_ok=True)
        (corpus / "shelves" / name).write_bytes(b"not decoded by the reader")
    code = (
        "import moretta, sys\nrows = moretta.records(moretta.load_corpus(sys.argv[1]))\n"
        "print(*(row['speaker'] + row['label'] for row in rows))"
    )
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.append({str(package)!r})\n{code}", str(corpus)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.stdout.strip(), found.stderr) == ("annaHAP benSAD", "")
