"""`moretta corpus check` and `moretta anonymize` on a corpus of CREMA-D's form: a tenth of its size, and twice as much.

Prints minutes for the whole of CREMA-D, 7,442 clips of about 2.5 s, and the most memory of its processes together.
`python -m tests.benchmarks.bench_corpus 7442` measures the whole.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import soundfile

from moretta.shared.features.mfcc import SAMPLE_RATE
from tests.benchmarks.figures import from_values, quick, record

WHOLE, TENTH = 7_442, 744
FIRST_SPEAKER = 1_001
BROKEN = "1076_MTI_SAD_XX"
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
MAX_MINUTES, MAX_GIB = 3.0, 2.0


def main(clips: int) -> None:
    """Two rows."""
    minutes: list[float] = []
    gib: list[float] = []
    detail: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        sizes = [clips] if clips == WHOLE else [clips, *([] if quick() else [2 * clips])]
        for size in sizes:
            corpus = Path(scratch) / f"corpus-{size}"
            write_corpus(corpus, size)
            check, checking = measured(["corpus", "check", str(corpus)])
            release, releasing = measured(["anonymize", "--corpus", str(corpus), "--out", str(Path(scratch) / "out")])
            shutil.rmtree(Path(scratch) / "out")
            minutes.append((check + release) / 60 * WHOLE / size)
            gib.append(max(checking, releasing))
            detail |= {f"check_{size}_s": check, f"release_{size}_s": release}
    # Start-up counts once, so that a tenth times ten overstates the whole
    for name, what, values, target, unit in (
        ("corpus-minutes", "corpus check and voice release, size of CREMA-D", minutes, MAX_MINUTES, "min"),
        ("corpus-memory", "their memory", gib, MAX_GIB, "GiB"),
    ):
        record(from_values(name, what, "-", values, target=target, better="lower", unit=unit, detail=detail))


def write_corpus(folder: Path, clips: int) -> None:
    """Voiced sounds that differ from one another, under CREMA-D's names."""
    (folder / "AudioWAV").mkdir(parents=True)
    generator = np.random.default_rng(1)
    for name in itertools.islice(clip_names(), clips):
        seconds = float(np.clip(generator.normal(2.54, 0.4), 1.3, 5.0))
        times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 100 + generator.random() * 150
        tones = [np.sin(2 * np.pi * pitch * harmonic * times) / harmonic for harmonic in range(1, 9)]
        sound = 0.05 * np.sum(tones, axis=0) * (0.5 + 0.5 * np.sin(6 * np.pi * times))
        sound += 0.001 * generator.standard_normal(len(times))
        soundfile.write(folder / "AudioWAV" / f"{name}.wav", sound.astype(np.float32), SAMPLE_RATE, subtype="PCM_16")


def clip_names() -> Iterator[str]:
    """82 of each speaker, but for the one clip that every check of CREMA-D finds broken."""
    for speaker, sentence, emotion in itertools.product(range(FIRST_SPEAKER, FIRST_SPEAKER + 91), SENTENCES, EMOTIONS):
        for level in ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",):
            name = f"{speaker}_{sentence}_{emotion}_{level}"
            if name != BROKEN:
                yield name


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Seconds, and the largest sum of proportional set sizes of the command and its workers, in GiB."""
    start = time.perf_counter()
    process = subprocess.Popen([Path(sys.executable).with_name("moretta"), *command], stdout=subprocess.DEVNULL)
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        root = psutil.Process(process.pid)
        while not over.wait(0.25):
            total = 0
            try:
                for each in (root, *root.children(recursive=True)):
                    total += each.memory_full_info().pss
            except psutil.Error:
                continue
            peak[0] = max(peak[0], total / 2**30)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    assert code == 0, f"{command} ended with {code}"
    return seconds, peak[0]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TENTH)
