"""Flower's Control API on loopback: submit Moretta's bundle, follow a run, stop it.

The API knows no authentication, so it is called on loopback only. Flower's own command line does the same in a process
of its own, which costs seconds each time and exits with 0 whatever happened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from moretta.deploy.runtime.environment import proxies_ignored
from moretta.shared.core.errors import RunError
from moretta.shared.messages.relay import Bundle, read_folder

if TYPE_CHECKING:
    from moretta.shared.core.flower_private import ControlHttpClient

BUNDLE = Path(__file__).parent.parent / "fab"
"""Folder of the installed bundle: the server submits it, and sites run no other."""
_IGNORED = "__pycache__"


class ControlError(RunError):
    """The SuperLink does not respond, or refuses."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """How Flower sees a run. `completed` says nothing of its outcome: the ServerApp may have caught its own failure."""

    state: str
    """`pending`, `starting`, `running` or `finished`."""
    result: str
    """Of a finished one: `completed`, `failed` or `stopped`."""
    details: str


class Control:
    """One SuperLink's Control API.

    Args:
        address: `host:port` on loopback.
        ca_pem: certificate authority of its TLS certificate; None where it speaks plain HTTP.
    """

    def __init__(self, address: str, ca_pem: bytes | None = None) -> None:
        self._address, self._ca = address, ca_pem

    def submit(self, config: dict[str, str | int], *, federation: dict[str, Any] | None = None) -> int:
        """Submit the bundle; returns Flower's id of the run.

        Args:
            config: values of the bundle's run configuration.
            federation: in a simulation, Flower's simulation configuration.

        Raises:
            ControlError: the SuperLink is not there or refused.
        """
        from moretta.shared.core.flower_private import Fab, SimulationConfig, StartRunRequest, user_config_to_proto

        content = bundle_bytes()
        request = StartRunRequest(
            fab=Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content),
            override_config=user_config_to_proto({**config}),
            override_federation_config=None if federation is None else SimulationConfig(**federation),
        )
        with self._client() as client:
            response = client.StartRun(request)
        if not response.HasField("run_id"):
            raise ControlError("Flower's SuperLink took no run", expected="a run id", fix="see the SuperLink's log")
        return int(response.run_id)

    def status(self, run_id: int) -> RunStatus | None:
        """How a run is; None if the SuperLink knows no such run.

        Raises:
            ControlError: the SuperLink is not there.
        """
        from moretta.shared.core.flower_private import ListRunsRequest

        try:
            with self._client() as client:
                runs: Any = client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        except ControlError as error:
            cause = error.__cause__
            if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.NOT_FOUND:
                return None
            raise
        if run_id not in runs:
            return None
        status = runs[run_id].status
        return RunStatus(status.status, status.sub_status, status.details)

    def stop(self, run_id: int) -> None:
        """End a run, if it is still there."""
        from moretta.shared.core.flower_private import StopRunRequest

        try:
            with self._client() as client:
                client.StopRun(StopRunRequest(run_id=run_id))
        except ControlError:
            return

    @contextmanager
    def _client(self) -> Iterator[ControlHttpClient]:
        from moretta.shared.core.flower_private import ControlHttpClient, RuntimeVersionHttpInterceptor

        with proxies_ignored():
            client = ControlHttpClient.from_server_address(
                self._address,
                insecure=self._ca is None,
                root_certificates=self._ca,
                interceptors=[RuntimeVersionHttpInterceptor(component_name="moretta")],
            )
        try:
            yield client
        except httpx.HTTPStatusError as error:
            raise ControlError(f"Flower's SuperLink refused: {error.response.text[:300]}") from error
        except httpx.HTTPError as error:
            raise ControlError(
                f"Flower's SuperLink does not respond at {self._address}: {type(error).__name__}: {error}"
            ) from error
        finally:
            client.close()


def installed_bundle() -> Bundle:
    """Name, version and digest of the installed bundle.

    Raises:
        RefusedError: the installation is damaged.
    """
    return read_folder(BUNDLE)


def bundle_bytes() -> bytes:
    """The installed bundle as Flower packs it: equal files give equal bytes."""
    from moretta.shared.core.flower_private import build_fab_from_files

    files = {
        path.relative_to(BUNDLE).as_posix(): path
        for path in BUNDLE.rglob("*")
        if path.is_file() and _IGNORED not in path.parts
    }
    return build_fab_from_files(files)[0]
