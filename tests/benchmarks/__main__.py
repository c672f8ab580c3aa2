"""`make bench`: every benchmark in a process of its own. They measure and never assert a time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = {
    "Voice: times real time": ["bench_voice.py"],
    "Pretrained attackers: clips a second, one thread": ["bench_encoders.py"],
    "Faces: frames a second, one thread": ["bench_face.py", "1"],
    "Faces: frames a second, two threads": ["bench_face.py", "2"],
    "Expressions, as a network trained elsewhere reads them": ["expressions.py"],
    "Server: enrollment, relay, long bodies": ["bench_server.py"],
    "Site: joining, renewal, memory": ["bench_site.py"],
}


def main() -> int:
    """Run all; returns how many failed."""
    failed = 0
    for title, (script, *arguments) in BENCHMARKS.items():
        print(f"\n## {title}\n", flush=True)
        command = [sys.executable, str(Path(__file__).parent / script), *arguments]
        failed += subprocess.run(command, check=False).returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
