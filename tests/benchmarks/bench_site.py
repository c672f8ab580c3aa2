"""Costs of a site: time to join, to renew and to come online, and the memory of its processes."""

from __future__ import annotations

import asyncio
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
for folder in (TESTS / "e2e", TESTS / "server", TESTS.parent):
    sys.path.insert(0, str(folder))

import psutil  # noqa: E402
from servers import ServerProcess  # noqa: E402
from sites import SiteProcess  # noqa: E402

from moretta.client.site_home import SiteFile, SiteHome  # noqa: E402
from moretta.client.transport import enrollment  # noqa: E402
from tests.conftest import write_tone_corpus  # noqa: E402

TIMES = 10


def main() -> None:
    """Run on a server and a site of its own, which are gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as scratch:
        server = ServerProcess.init(Path(scratch) / "server", port=port)
        server.start()
        try:
            measure(server, Path(scratch))
        finally:
            server.close()


def measure(server: ServerProcess, scratch: Path) -> None:
    """Everything, on a server that is ready."""
    corpus = write_tone_corpus(scratch / "tones")
    joins, renewals = [], []
    for number in range(TIMES):
        home, string = SiteHome(scratch / f"home-{number}"), server.token(f"clinic-{number}")
        joins.append(seconds(enrollment.join(home, string, SiteFile(corpus=corpus))))
        renewals.append(seconds(enrollment.renew(home)))
    reported("join: authority looked at, keys, certificate, written", joins)
    reported("renewal: key, certificate, written", renewals)
    start = time.perf_counter()
    site = SiteProcess.join(server, "clinic-x", scratch / "x", corpus)
    print(f"moretta site join, the whole command                 {time.perf_counter() - start:8.2f} s")
    start = time.perf_counter()
    site.start()
    print(f"moretta site run, until Flower counts it as online   {time.perf_counter() - start:8.2f} s")
    time.sleep(5)
    assert site.process is not None
    for process in [psutil.Process(site.process.pid), *site.children()]:
        full = process.memory_full_info()
        name = next((part for part in ("supernode", "executor") if part in " ".join(process.cmdline()[:5])), "site run")
        print(f"memory of {name:<42} {full.rss / 2**20:8.0f} MiB resident, {full.pss / 2**20:.0f} MiB of its own (PSS)")
    site.close()


def seconds(work: object) -> float:
    """Seconds that a coroutine takes."""
    start = time.perf_counter()
    asyncio.run(work)  # type: ignore[arg-type]
    return time.perf_counter() - start


def reported(name: str, found: list[float]) -> None:
    print(f"{name:<52} median {statistics.median(found):6.3f} s   worst {max(found):6.3f} s")


if __name__ == "__main__":
    main()
