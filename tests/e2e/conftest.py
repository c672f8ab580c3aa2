from __future__ import annotations

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (Path(__file__).parent, TESTS / "server"):  # `servers`, and `ports` and `offices` under it
    sys.path.insert(0, str(folder))
