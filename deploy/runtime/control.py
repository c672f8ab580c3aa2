"""Flower's Control API on loopback: submit Moretta's bundle, follow a run, stop it.

The API knows no authentication, so it is called on loopback only. Flower's own command line does the same in a process
of its own, which costs seconds each time and exits with 0 whatever happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from moretta.deploy.runtime.processes import proxies_ignored
from moretta.shared.core.errors import RunError
from moretta.shared.messages.relay import Bundle, read_folder

if TYPE_CHECKING:
    from moretta.shared.core.flower_private import ControlHttpClient

BUNDLE = Path(__file__).parent.parent / "fab"
"""Folder of the installed bundle: the server submits it, and sites run no other."""


class ControlError(RunError):
    """The SuperLink does not respond, or refuses."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How Flower sees a run. `completed` says nothing of its outcome: the ServerApp may have caught its own failure."""

    state: str
    """`pending`, `starting`, `running` or `finished`."""
    result: str
    """Result of a finished run: `completed`, `failed` or `stopped`; else empty."""
    details: str


@dataclass(frozen=True, slots=True)
class Control:
    """One SuperLink's Control API. Where it is not there, or refuses, that is a ControlError."""

    address: str
    """`host:port` on loopback."""
    ca_pem: bytes | None = None
    """Certificate authority of its TLS certificate; None where it speaks plain HTTP."""

    def submit(self, config: dict[str, str | int]) -> int:
        """Submit the bundle with this run configuration; returns Flower's id of the run."""
        from moretta.shared.core.flower_private import (
            Fab,
            StartRunRequest,
            build_fab_from_files,
            user_config_to_proto,
        )

        files = {path.relative_to(BUNDLE).as_posix(): path for path in BUNDLE.rglob("*") if path.is_file()}
        content = build_fab_from_files({name: path for name, path in files.items() if "__pycache__" not in name})[0]
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config=user_config_to_proto({**config}),
        )
        with self._client() as client:
            response = client.StartRun(request)
        if not response.HasField("run_id"):
            raise ControlError("Flower's SuperLink took no run", expected="a run id", fix="see the SuperLink's log")
        return int(response.run_id)

    def status(self, run_id: int) -> RunStatus:
        """How a run is; a run that the SuperLink does not know has failed."""
        from moretta.shared.core.flower_private import ListRunsRequest

        runs: Any = {}
        try:
            with self._client() as client:
                runs = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except ControlError as error:
            cause = error.__cause__
            if not isinstance(cause, httpx.HTTPStatusError) or cause.response.status_code != httpx.codes.NOT_FOUND:
                raise
        if run_id not in runs:
            return RunStatus("finished", "failed", "Flower's SuperLink does not know the run any more")
        status = runs[run_id].status
        return RunStatus(status.status, status.sub_status, status.details)

    def stop(self, run_id: int) -> None:
        """End a run, if it is still there."""
        from moretta.shared.core.flower_private import StopRunRequest

        with suppress(ControlError), self._client() as client:
            client.StopRun(StopRunRequest(run_id=run_id))

    @contextmanager
    def _client(self) -> Iterator[ControlHttpClient]:
        from moretta.shared.core.flower_private import ControlHttpClient, RuntimeVersionHttpInterceptor

        with proxies_ignored():
            client = ControlHttpClient.from_server_address(
                self.address,
                insecure=self.ca_pem is None,
                root_certificates=self.ca_pem,
                interceptors=[RuntimeVersionHttpInterceptor(component_name="moretta")],
            )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            raise ControlError(f"Flower's SuperLink refused: {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            found = f"Flower's SuperLink does not respond at {self.address}: {type(error).__name__}: {error}"
            raise ControlError(found) from error
        finally:
            client.close()


def installed_bundle() -> Bundle:
    """Name, version and digest of the installed bundle; a damaged installation is a RefusedError."""
    return read_folder(BUNDLE)
