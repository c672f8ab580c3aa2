"""The data sheet of a release that others get: how it was made, what holds, what was measured, what it is not for.

Its questions are those of Gebru et al., "Datasheets for Datasets", Communications of the ACM 64(12), 2021.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence

from moretta.deploy.model.model_card import AI_ACT
from moretta.shared.audit.report import wording
from moretta.shared.audit.report.plain_words import epsilon_word
from moretta.shared.audit.report.text_forms import escaped, table
from moretta.shared.core.reproducibility import versions
from moretta.shared.core.terms import Modality
from moretta.shared.release import Release
from moretta.shared.release.data_set import AUDIT_FOLDER, CHECKSUMS_FILE, MANIFEST_FILE, MEDIA_FOLDER
from moretta.shared.release.release_format import CLIPS_FILE, CODEBOOK_FILE, STATEMENT_FILE

NO_AUDIT = "No audit was run on this data set: what it leaks beyond its guarantees is not known."
_SHAPES = {
    ("voice", "tokens"): f"int32 [frames], rows of {CODEBOOK_FILE}",
    ("voice", "mfcc"): "float32 [frames, coefficients], a frame every 10 ms",
    ("voice", "waveform"): "float32 [samples] at 16 kHz, in [-1, 1]",
    ("voice", "code-tokens"): f"int32 [steps], rows of {CODEBOOK_FILE}",
    ("face", "frames"): "uint8 [frames, height, width, 3], RGB",
}
_CODES = {"code": "float32 [d], one a clip", "code-sequence": "float32 [steps, d]"}
_MEDIA = {
    "audio": "wav of 16 bits, 16 kHz",
    "video": "mp4, compressed with loss",
    "picture": "png, of clips of one frame",
}
_NOT_FOR = (
    "To find out who was recorded, by any means, or to help others to do so.",
    "To join it with other data about the same people, or with another release of them.",
    "To train, to test or to enrol people in a recogniser of speakers or of faces.",
    "To decide about a person, or to rate one.",
    "As proof that people cannot be recognised. It shows no more than the guarantees and the figures above.",
)


def data_sheet(release: Release, media: Iterable[str], *, synthetic: bool, measured: Sequence[str] = ()) -> str:
    """The text of `DATASHEET.md`.

    Args:
        media: which columns of the manifest name files: `audio`, `video`, `picture`.
        synthetic: whether a program made the original clips.
        measured: what an audit found, as sentences; none if none was run.
    """
    statement = release.statement
    labels = Counter(str(clip.emotion) for clip in release.clips)
    each = ", ".join(f"{escaped(label)} {count}" for label, count in sorted(labels.items()))
    lines = [
        "# Data sheet",
        "",
        *(["**SYNTHETIC INPUT: these clips are of no people.**", ""] if synthetic else []),
        "## Content",
        "",
        f"{wording.format_count(statement.clips, 'clip')} of {wording.format_count(statement.speakers, 'speaker')}, "
        f"with an emotion label each: {each}. Clips and speakers have pseudonyms.",
        "",
        *table(("file", "content"), _files(release, media)),
        "",
        "There are no recordings in it, and no key. The pseudonym key stays with the maker, and so does the table of "
        "who has which pseudonym, which only that key gives.",
        "",
        "## How it was made",
        "",
        *table(
            ("modality", "anonymizer", "version", "form", "noise", "parameters"),
            (
                (a.modality, a.name, a.version, a.form, a.noise, json.dumps(a.parameters, sort_keys=True))
                for a in statement.anonymizers
            ),
        ),
        "",
        f"By `moretta anonymize`, Moretta {escaped(versions()['moretta'])}. {_left_out(statement.dropped)}",
        "",
        "## Guarantees",
        "",
        *_guarantees(release),
        "",
        "## Measurements",
        "",
        *([f"- {escaped(line)}" for line in measured] or [NO_AUDIT]),
        *(["", f"The page with all figures is `{AUDIT_FOLDER}/audit.html`."] if measured else []),
        "",
        "## Uses that are excluded",
        "",
        *(f"- {line}" for line in (*_NOT_FOR, AI_ACT)),
        "",
        "The labels are those of the corpus. They say how a clip was acted or rated, and not what somebody felt.",
        "",
        "## How to read it",
        "",
        "```",
        f"sha256sum -c {CHECKSUMS_FILE}",
        "```",
        "",
        f"`{MANIFEST_FILE}` and `{CLIPS_FILE}` open in any tool, and arrays with the library safetensors. In Python:",
        "",
        "```python",
        "import moretta",
        "",
        'release = moretta.load_release("release")  # checks every file',
        "rows = moretta.records(release)  # for pandas.DataFrame",
        f'clips = moretta.torch_dataset(release, "{next(iter(release.modalities), "voice")}")',
        "```",
    ]
    return "\n".join(lines) + "\n"


def _files(release: Release, media: Iterable[str]) -> Iterable[tuple[str, str]]:
    yield MANIFEST_FILE, "one line a clip: pseudonyms, label, files"
    yield f"{CLIPS_FILE}, {STATEMENT_FILE}", "the same as JSON, and how it was made"
    for a in release.statement.anonymizers:
        yield f"{a.modality}-N.safetensors", f"{a.form}: {_shape(a.modality, a.form)}; by the clip's pseudonym"
    for column in media:
        yield f"{MEDIA_FOLDER}/, column {column}", f"{_MEDIA[column]}: to listen and look, the arrays are exact"
    yield CHECKSUMS_FILE, "SHA-256 of every file"


def _shape(modality: Modality, form: str) -> str:
    return _SHAPES.get((modality, form)) or _CODES.get(form, "arrays")


def _left_out(dropped: dict[str, int]) -> str:
    if not dropped:
        return "Nothing was left out."
    each = ", ".join(f"{escaped(reason)} {count}" for reason, count in sorted(dropped.items()))
    return f"Left out, by reason: {each}."


def _guarantees(release: Release) -> list[str]:
    rows = [
        (a.modality, p.mechanism, p.unit, wording.epsilon(p.epsilon), epsilon_word(p.epsilon), f"{p.delta:g}", p.note)
        for a in release.statement.anonymizers
        for p in a.privacy
    ]
    if not rows:
        return ["No anonymizer of this release states a guarantee of differential privacy."]
    seeded = any(a.noise == "seeded" for a in release.statement.anonymizers)
    warning = "**The noise was drawn from a seed. With the seed it can be subtracted, and nothing here holds.**"
    return [
        *([warning, ""] if seeded else []),
        *table(("modality", "mechanism", "for a", "epsilon", "in words", "delta", "note"), rows),
    ]
