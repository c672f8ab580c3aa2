"""The folder of a site, what `site.toml` says of its clips, and what the running site says of itself.

docs/site.md lists what lies where in it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from moretta.shared.core.atomic import locked, write_atomic
from moretta.shared.core.device import DeviceName, resolve_device
from moretta.shared.core.errors import HomeError, MorettaError, StudyError
from moretta.shared.core.labels import SpeakerId
from moretta.shared.core.printable import from_toml, to_toml

HOME_VARIABLE = "MORETTA_SITE"
REVIEW_PREFIX = ".review-"
"""Prefix of folders in a site's folder that hold the files of a review while it runs."""
SITE_HOME = "site-home"
"""Key of the configuration that Flower's SuperNode hands to the ClientApp: the site's folder."""
T = TypeVar("T")


class OwnRecord(BaseModel):
    """Base of what a site keeps in its folder: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SiteFile(OwnRecord):
    """The content of `site.toml`. Unknown keys are errors."""

    corpus: Path
    """The folder of clips; a relative path starts at the site's folder."""
    speakers: tuple[SpeakerId, ...] = ()
    """The speakers who are this site's; empty means everybody in the corpus."""
    held_out: tuple[SpeakerId, ...] | None = None
    """Speakers who are never trained on; None lets a keyed rule choose by the study's folds."""
    device: DeviceName = "cpu"
    """Device of local training. It is the site's choice: no study can name one."""
    simulated_seed: int | None = Field(default=None, ge=0, lt=2**31)
    """Tests only: all noise comes from this seed, and anybody with the seed can subtract it. Policy refuses it unless
    `allow_seeded_noise` is set."""


@dataclass(frozen=True, slots=True)
class SiteHome:
    """Paths of a site's folder, and its `site.toml`."""

    root: Path

    @property
    def site_file(self) -> Path:
        """The steward's description of the clips."""
        return self.root / "site.toml"

    @property
    def policy_file(self) -> Path:
        """The site's policy."""
        return self.root / "policy.toml"

    @property
    def keys(self) -> Path:
        """The folder of keys."""
        return self.root / "keys"

    @property
    def identity_file(self) -> Path:
        """The site's name, server, certificate and keys."""
        return self.keys / "identity.json"

    @property
    def state_file(self) -> Path:
        """File with the state of the running site, see `SiteState`."""
        return self.root / "state.json"

    @property
    def flower(self) -> Path:
        """Flower's own folder."""
        return self.root / "flower"

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.root / "logs"

    def prepare(self) -> None:
        """Make the folder, open to its owner only."""
        try:
            for folder in (self.root, self.keys, self.logs, self.flower):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise HomeError(f"the site's folder {self.root} cannot be made: {error.strerror}") from error

    def read(self) -> SiteFile:
        """The content of `site.toml`, with its corpus as an absolute path."""
        try:
            content = SiteFile.model_validate(from_toml(self.site_file.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            found, fix = f"no site in {self.root}", "join a server: moretta site join STRING"
            raise HomeError(found, expected=self.site_file.name, fix=fix) from error
        except (OSError, ValueError) as error:
            found, keys = f"{self.site_file} cannot be used: {first_problem(error)}", ", ".join(SiteFile.model_fields)
            raise HomeError(found, expected=f"the keys {keys}", fix="correct the file") from error
        return content.model_copy(update={"corpus": self.root.absolute() / content.corpus})

    def check_device(self) -> str:
        """The device of `site.toml`; a HomeError where this machine does not have it."""
        device = self.read().device
        try:
            return device if device == "cpu" else resolve_device(device).type
        except StudyError as error:
            found = f"{self.site_file} names {error.found}"
            raise HomeError(found, expected=error.expected, fix=error.fix) from error

    def write(self, content: SiteFile) -> None:
        """Write `site.toml`, whole or not at all."""
        write_atomic(self.site_file, to_toml(content.model_dump(mode="json")), mode=0o600)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one process, until the block or the process ends."""
        with ExitStack() as lock:
            try:
                lock.enter_context(locked(self.root / ".lock", wait=False))
            except BlockingIOError as error:
                found = f"the site's folder {self.root} is in use by another process"
                raise HomeError(found, fix="end the other `moretta site` first") from error
            yield


@dataclass(frozen=True, slots=True)
class SiteState:
    """The state of a running site, written once a second for `moretta site status` and for health checks."""

    pid: int
    site: str
    server: str
    written: float
    """Seconds since 1970."""
    connected: bool
    """Whether the connection to the server is up."""
    online: bool
    """Whether Flower's SuperLink took the node."""
    supernode: int | None
    """Its pid; None while none runs."""
    supernode_starts: int
    certificate_ends: float
    """Seconds since 1970."""
    calls: int
    failed_calls: int
    bytes_out: int
    bytes_in: int


def read_state(home: SiteHome, *, oldest_seconds: float = 10.0) -> SiteState | None:
    """The state of the running site; None if none runs, or its state is old."""
    try:
        content: dict[str, Any] = json.loads(home.state_file.read_text(encoding="utf-8"))
        state = SiteState(**content)
    except (OSError, ValueError, TypeError):
        return None
    return state if abs(time.time() - state.written) <= oldest_seconds else None


def default_home() -> Path:
    """The folder that `MORETTA_SITE` names, else `~/.moretta/site`."""
    named = os.environ.get(HOME_VARIABLE)
    try:
        return Path(named) if named else Path.home() / ".moretta" / "site"
    except RuntimeError as error:
        fix = f"name the site's folder with --home, or in {HOME_VARIABLE}"
        raise HomeError("this account has no home folder", fix=fix) from error


def read_own(path: Path, parse: Callable[[bytes], T], broken: MorettaError) -> T | None:
    """The content of one of the site's own files; None if there is none. Raises `broken` if it cannot be read."""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, StudyError) as error:
        raise broken from error


def first_problem(error: Exception) -> str:
    """One line about a file that cannot be parsed."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error).splitlines()[0]
