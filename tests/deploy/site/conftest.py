from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "client"))  # `enrolled` and `mini_server`

from mini_server import MiniServer

from moretta.client.policy import default_policy
from moretta.client.site_home import SiteFile, SiteHome


class Background:
    """A small server in a thread of its own, for what runs an event loop itself."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.server = MiniServer()
        self.do(self.server.start())

    def do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def close(self) -> None:
        self.do(self.server.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background()
    yield made
    made.close()


@pytest.fixture
def site(tmp_path: Path, tiny_corpus: Path, background: Background) -> SiteHome:
    """A site that is enrolled at the small server and whose clips are four speakers' tones."""
    home = SiteHome(tmp_path / "site")
    home.prepare()
    identity = background.server.identity()
    identity.save(home.identity_file)
    home.write(SiteFile(corpus=tiny_corpus))
    home.policy_file.write_text(
        default_policy(identity.ca_fingerprint).replace(
            "without_guarantee = []", 'without_guarantee = ["mfcc-quantizer", "blur", "autoencoder", "pixelate"]'
        ),
        "utf-8",
    )
    home.policy_file.chmod(0o600)
    return home
