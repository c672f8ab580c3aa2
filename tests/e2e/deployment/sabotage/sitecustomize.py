"""Makes a site misbehave, for tests: Python imports this in every process of a site whose PYTHONPATH leads here.

The installed code is untouched. Its orders stand in a JSON file that the environment names, and are read at every
call: `updates` spoils updates by round, `hold` lists rounds whose update is kept back until they are off the list,
`anonymizer` makes every anonymizer fail with raw samples in its error, `twice` sends every response twice, `record`
names a file that gets all that the site sends to its server. SuperNodes always look for messages often.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def orders() -> dict[str, Any]:
    try:
        return dict(json.loads(Path(os.environ["MORETTA_SABOTAGE"]).read_text(encoding="utf-8")))
    except (KeyError, OSError, ValueError):
        return {}


def _spoil_updates(module: Any) -> None:
    """Updates that a server must refuse, each in a round of its own."""
    import numpy as np

    sound = module.train_round

    def spoilt(settings: Any, request: Any) -> Any:
        update, round_number = sound(settings, request), request.number
        while round_number in orders().get("hold", []):
            time.sleep(0.05)
        kinds = orders().get("updates", [])
        kind = kinds[round_number - 1] if round_number <= len(kinds) else ""
        arrays = dict(update.arrays)
        name = max(arrays, key=lambda n: arrays[n].size)
        match kind:
            case "nan":
                arrays[name] = np.full_like(arrays[name], np.nan)
            case "shape":
                arrays[name] = arrays[name].reshape(-1)
            case "extra":
                arrays["stowaway"] = np.zeros(3, np.float32)
            case "huge":
                arrays[name] = np.full_like(arrays[name], 1e9)
            case "oversized":
                arrays[name] = np.zeros((1000, 1000), np.float32)
            case "truncated":
                _truncate(name)
        return type(update)(arrays, update.metrics)

    module.train_round = spoilt


def _truncate(name: str) -> None:
    from flwr.app import Array, ArrayRecord

    from moretta.shared.messages import wire

    packed = wire.arrays_to_record

    def cut(arrays: Any) -> Any:
        record = packed(arrays)
        whole = record[name]
        short = Array(dtype=whole.dtype, shape=whole.shape, stype=whole.stype, data=whole.data[:-7])
        return ArrayRecord({key: short if key == name else array for key, array in record.items()})

    wire.arrays_to_record = cut


def _fail_anonymizer(module: Any) -> None:
    cls = module.MfccQuantizer
    sound = cls.release

    def failing(self: Any, raw: Any, *arguments: Any, **more: Any) -> Any:
        if orders().get("anonymizer"):
            raise RuntimeError(f"cannot anonymize {raw[0].tobytes()!r} {raw[0].tolist()}")
        return sound(self, raw, *arguments, **more)

    cls.release = failing


def _send_twice(module: Any) -> None:
    """Every answer once more when it is whole at the server, signed anew: the relay takes no signature twice."""
    cls = module.FleetHttpClient
    push, pull = cls.PushMessages, cls.PullMessages
    sent: list[Any] = []

    def pushed(self: Any, request: Any) -> Any:
        answer = push(self, request)
        sent.append(request)
        return answer

    def pulled(self: Any, request: Any) -> Any:
        path = orders().get("twice")
        while sent:
            again = sent.pop()
            if path:
                try:
                    reported = f"answered {push(self, again).results}"
                except Exception as error:
                    reported = f"refused {error}"
                with Path(path).open("a", encoding="utf-8") as log:
                    log.write(f"{reported}\n")
        return pull(self, request)

    cls.PushMessages, cls.PullMessages = pushed, pulled


def _record(module: Any) -> None:
    cls = module.ServerChannel
    sound = cls.call

    async def recorded(self: Any, call: Any, **more: Any) -> Any:
        if path := orders().get("record"):
            with Path(path).open("ab") as log:
                log.write(call.SerializeToString())
        return await sound(self, call, **more)

    cls.call = recorded


def _look_often(module: Any) -> None:
    """A SuperNode looks for messages each second, and not each third."""

    class Hurried:
        def __getattr__(self, name: str) -> Any:
            return getattr(time, name)

        def sleep(self, seconds: float) -> None:
            time.sleep(min(seconds, 1.0))

    module.time = Hurried()


PATCHES: dict[str, Callable[[Any], None]] = {
    "moretta.client.training.rounds": _spoil_updates,
    "moretta.client.anonymizers.mfcc_quantizer": _fail_anonymizer,
    "flwr.supernode.fleet_http_client": _send_twice,
    "flwr.supernode.start_client_internal": _look_often,
    "moretta.client.transport.server_channel": _record,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Lets a module load as it is, and then changes it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in PATCHES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_change(module: Any) -> None:
                load(module)
                PATCHES[name](module)

            spec.loader.exec_module = load_and_change  # type: ignore[method-assign]
        return spec


if "MORETTA_SABOTAGE" in os.environ:
    sys.meta_path.insert(0, _Finder())
