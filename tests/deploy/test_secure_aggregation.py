"""Both sides of secure aggregation together: the sum is right, no summand is revealed, and lost sites are left out.

Sites answer by the functions that answer Flower's messages; only their training is stood in for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from moretta.client.settings import SiteSettings
from moretta.client.training import masked_rounds as steps
from moretta.client.training.local_training import noisy_update
from moretta.client.training.masked_rounds import Session, SessionStore
from moretta.client.training.rounds import ResponseStore, RoundRequest, StoredResponse
from moretta.server.aggregation.checked_strategy import RoundOutcome
from moretta.server.aggregation.secure_strategy import SecureStrategy
from moretta.server.aggregation.strategies import make_strategy
from moretta.server.grid.site_grid import LOST, REFUSED, SiteGrid, SiteResponse
from moretta.shared.core.errors import RefusedError, RunError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import REQUESTS, RESPONSES, KeysWanted, SharesWanted, UnmaskingWanted
from moretta.shared.messages.message import read
from moretta.shared.privacy.site_updates import mask, quantum
from moretta.shared.study.schema import Study, parse_study

SENT = {
    "0.mean": np.zeros(78, np.float32),
    "0.std": np.ones(78, np.float32),
    "2.weight": np.linspace(-1, 1, 6 * 78, dtype=np.float32).reshape(6, 78),
    "2.bias": np.zeros(6, np.float32),
}
TRAINED = frozenset({"2.weight", "2.bias"})
STEPS = (wire.SECURE_KEYS, wire.SECURE_SHARES, wire.TRAIN["voice"], wire.SECURE_UNMASK)


@pytest.fixture(autouse=True)
def _as_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


def secure_study(**aggregation: Any) -> Study:
    return parse_study(
        {
            "face": {"enabled": False},
            "train": {"rounds": 3},
            "audit": {"updates": False},
            "aggregation": {"secure": True, **aggregation},
        }
    )


class Sites(SiteGrid):
    """A grid whose sites are functions of this process."""

    def __init__(self, network: Any) -> None:
        nobody: Any = None
        super().__init__(nobody, 60.0, nodes=network.nodes)
        self._network = network

    def send_and_receive(self, messages: Iterable[Message], **_: Any) -> list[Message]:
        replies = []
        for message in sorted(messages, key=lambda each: self.nodes[each.metadata.dst_node_id]):
            site, call = self.nodes[message.metadata.dst_node_id], message.metadata.message_type
            found = self._network.respond(call, message.content, site)
            made = Error(LOST if found.lost else REFUSED, found.failure) if found.content is None else found.content
            replies.append(Message(made, reply_to=message))
        return replies


@dataclass
class Network:
    """Sites on disk, and a grid that keeps all that it hands to the server."""

    home: Path
    study: Study
    names: list[str]
    drop: Callable[[str, str], bool] = lambda call, site: False
    twice: bool = False
    heard: list[RecordDict] = field(default_factory=list)

    @property
    def nodes(self) -> dict[int, str]:
        return dict(enumerate(self.names))

    def site(self, name: str) -> SiteSettings:
        return SiteSettings(name, self.home / name, Path(), (), None, simulated_seed=7)

    def update(self, name: str, number: int = 1) -> dict[str, Any]:
        """Weights after a site's training: changed by about half the clipping norm, or more."""
        rng = np.random.default_rng([number, *name.encode()])
        return {n: a + np.float32(0.02) * rng.standard_normal(a.shape).astype(np.float32) for n, a in SENT.items()}

    def respond(self, call: str, content: RecordDict, name: str) -> SiteResponse:
        if self.drop(call, name):
            return SiteResponse(name, None, "it was lost (Node Unavailable)", lost=True)
        for _ in range(1 + self.twice):
            response = self.responded(call, content, name)
        return response

    def responded(self, call: str, content: RecordDict, name: str) -> SiteResponse:
        site, study = self.site(name), wire.study_of(content)
        try:
            request = read(REQUESTS[call], content)
            match request:
                case KeysWanted():
                    config, arrays = {"keys": steps.public_keys(site, study, request)}, None
                case SharesWanted():
                    config, arrays = {"shares": steps.shares(site, study, request)}, None
                case UnmaskingWanted():
                    config, arrays = {"shares": steps.unmasking(site, study, request)}, None
                case _:
                    number = RoundRequest.of(content, study, "voice")
                    config, arrays = {"round": number.number}, steps.masked_update(site, number, request).arrays
            found = RecordDict({wire.CONFIG: wire.json_config(site=name, **config)})
            if arrays is not None:
                found[wire.ARRAYS] = wire.arrays_to_record(arrays)
        except RefusedError as error:
            return SiteResponse(name, None, str(error))
        self.heard.append(found)
        return SiteResponse(name, found, message=read(RESPONSES[call], found))


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Network]:
    made: list[Network] = []

    def train(settings: SiteSettings, request: RoundRequest) -> StoredResponse:
        assert not request.models
        store = ResponseStore(settings.updates_of(request.study))
        kept = store.find(request.slot, request.digest)
        if kept is None:
            update = made[-1].update(settings.name, request.number)
            hidden = noisy_update(
                settings, request.study, request.kind, request.weights, update, round_number=request.number
            )
            kept = StoredResponse(hidden, {})
            store.keep(request.slot, request.digest, kept)
        return kept

    monkeypatch.setattr(steps, "train_round", train)

    def make(sites: int = 4, *, drop: Any = None, twice: bool = False, **aggregation: Any) -> Network:
        names = [f"site-{n}" for n in range(sites)]
        made.append(Network(tmp_path, secure_study(**aggregation), names, twice=twice))
        if drop is not None:
            made[-1].drop = drop
        return made[-1]

    return make


def strategy(network: Network, outcomes: list[RoundOutcome] | None = None, name: str = "FedAvg") -> SecureStrategy:
    return SecureStrategy(
        strategy=make_strategy(name, {}),
        grid=Sites(network),
        sites=network.names,
        call=wire.TRAIN["voice"],
        study=network.study,
        min_sites=network.study.min_sites("train"),
        on_round=(outcomes if outcomes is not None else []).append,
        kind="voice",
        trained=TRAINED,
    )


def plain_mean(network: Network, names: list[str], number: int = 1) -> dict[str, Any]:
    """Of clipped updates, in double precision."""
    total: dict[str, Any] = {}
    for name in names:
        change = {n: network.update(name, number)[n].astype(np.float64) - SENT[n] for n in TRAINED}
        norm = np.sqrt(sum(float((c**2).sum()) for c in change.values()))
        for n, c in change.items():
            total[n] = total.get(n, 0) + c * min(1.0, network.study.aggregation.clipping_norm / norm) / len(names)
    return total


def difference(found: dict[str, Any], expected: dict[str, Any]) -> float:
    return max(float(np.abs(found[n].astype(np.float64) - SENT[n] - expected[n]).max()) for n in TRAINED)


@pytest.mark.parametrize("clipping_norm", [0.1, 100.0])
def test_the_aggregate_is_the_mean_of_the_clipped_updates_but_for_rounding(
    network: Callable[..., Network], clipping_norm: float
) -> None:
    sites, outcomes = network(clipping_norm=clipping_norm), []
    found = strategy(sites, outcomes).round(1, SENT)
    rounding = quantum(sites.study) / 2 + 2.0**-24  # of whole numbers, and of float32 weights about 1
    assert difference(found, plain_mean(sites, sites.names)) <= rounding
    assert sorted(outcomes[0].used) == sites.names
    assert all(np.array_equal(found[n], SENT[n]) for n in ("0.mean", "0.std"))


def test_the_server_never_sees_an_update_a_count_of_clips_or_a_loss(network: Callable[..., Network]) -> None:
    sites = network()
    strategy(sites).round(1, SENT)
    heard = b"".join(_everything(content) for content in sites.heard)
    masked = [wire.arrays_of(c)[wire.MASKED] for c in sites.heard if wire.ARRAYS in c]
    assert len(masked) == 4
    for name in sites.names:
        hidden = noisy_update(sites.site(name), sites.study, "voice", SENT, sites.update(name), round_number=1)
        for array in (*hidden.values(), *sites.update(name).values()):
            assert not any(array.ravel()[k : k + 4].tobytes() in heard for k in range(0, array.size - 3, 40) if k)
    for words in masked:  # uniform: every bit of it is fair, whatever lies under it
        bits = np.unpackbits(words.view(np.uint8))
        assert abs(bits.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(bits))
    assert not {key for c in sites.heard for record in c.metric_records.values() for key in record}


def _everything(content: RecordDict) -> bytes:
    parts = [value.data for record in content.array_records.values() for value in record.values()]
    for record in content.config_records.values():
        parts += [str(value).encode() for value in record.values()]
    return b"\n".join(parts)


@pytest.mark.parametrize("step", STEPS)
def test_a_site_that_drops_out_at_any_step_is_done_without(network: Callable[..., Network], step: str) -> None:
    sites, outcomes = network(5, drop=lambda call, site: call == step and site == "site-2"), []
    found = strategy(sites, outcomes).round(1, SENT)
    left = sites.names if step == wire.SECURE_UNMASK else [n for n in sites.names if n != "site-2"]
    assert difference(found, plain_mean(sites, left)) <= quantum(sites.study) + 2.0**-24
    assert sorted(outcomes[0].used) == left
    assert set(outcomes[0].lost) == ({"site-2"} - set(left))


@pytest.mark.parametrize("step", STEPS)
def test_a_round_that_lost_too_many_fails_with_the_step_and_the_reason(
    network: Callable[..., Network], step: str
) -> None:
    did = dict(zip(STEPS, ("gave keys", "shared their keys", "sent an update", "took the masks off"), strict=True))
    sites = network(4, drop=lambda call, site: call == step and site in ("site-1", "site-3"))
    with pytest.raises(RunError, match=rf"2 of 4 sites {did[step]}.*site-1: it was lost.*at least 3") as caught:
        strategy(sites).round(1, SENT)
    assert caught.value.exit_code == 7


def test_questions_that_come_twice_get_the_same_response(network: Callable[..., Network]) -> None:
    sites = network(twice=True)
    found = strategy(sites).round(1, SENT)
    assert difference(found, plain_mean(sites, sites.names)) <= quantum(sites.study) + 2.0**-24
    masked = [wire.arrays_of(c)[wire.MASKED].tobytes() for c in sites.heard if wire.ARRAYS in c]
    assert (len(masked), len(set(masked))) == (8, 4)


def test_rounds_follow_each_other_and_one_that_is_redone_alike_is_reported_again(
    network: Callable[..., Network],
) -> None:
    sites = network()
    rounds = strategy(sites)
    first = rounds.round(1, SENT)
    again = strategy(sites).round(1, SENT)
    assert all(first[n].tobytes() == again[n].tobytes() for n in first)
    second = rounds.round(2, first)
    assert not np.array_equal(second["2.weight"], first["2.weight"])


def test_a_round_is_not_unmasked_once_more_with_other_sites(network: Callable[..., Network]) -> None:
    """The difference of two sums would be the update of the site that is in one of them."""
    sites = network(5)
    strategy(sites).round(1, SENT)
    sites.drop = lambda call, site: call == wire.TRAIN["voice"] and site == "site-4"
    with pytest.raises(RunError, match=r"0 of 5 sites took the masks off.*each round once"):
        strategy(sites).round(1, SENT)


def test_a_round_is_not_unmasked_once_more_for_other_weights(network: Callable[..., Network]) -> None:
    sites = network()
    strategy(sites).round(1, SENT)
    other = {**SENT, "2.bias": np.ones(6, np.float32)}
    with pytest.raises(RunError, match="0 of 4 sites took the masks off"):
        strategy(sites).round(1, other)


def test_shares_of_the_noise_are_under_the_masks_and_add_up(network: Callable[..., Network]) -> None:
    sites = network(6, dp="distributed", min_sites=6, curious_sites=0, clipping_norm=0.1)
    found = strategy(sites).round(1, SENT)
    noise = (found["2.weight"].astype(np.float64) - SENT["2.weight"] - plain_mean(sites, sites.names)["2.weight"]) * 6
    from moretta.shared.privacy.site_updates import plan_site_level

    plan = plan_site_level(sites.study)
    assert plan is not None
    assert noise.std() == pytest.approx(plan.sigma, rel=0.15)
    assert plan.share > 1000 * quantum(sites.study)  # so that rounding costs nothing


def test_a_strategy_of_flowers_goes_on_with_the_mean(network: Callable[..., Network]) -> None:
    found = strategy(network(), name="FedAdam").round(1, SENT)
    assert np.isfinite(found["2.weight"]).all()


def _session(sites: Network, name: str = "site-0") -> Session:
    store = SessionStore.of(sites.site(name).home, sites.study, "voice")
    return Session.model_validate_json((store.folder / "voice.json").read_bytes())


def test_a_sites_secrets_are_its_own_to_read_and_gone_after_the_round(network: Callable[..., Network]) -> None:
    sites = network(drop=lambda call, site: call == wire.SECURE_UNMASK)
    with pytest.raises(RunError):
        strategy(sites).round(1, SENT)
    path = SessionStore.of(sites.site("site-0").home, sites.study, "voice").folder / "voice.json"
    before = _session(sites)
    assert path.stat().st_mode & 0o777 == 0o600
    assert before.seed and before.mask_key and before.seed not in f"{before!r} {before}"
    sites.drop = lambda call, site: False
    strategy(sites).round(1, SENT)
    after = _session(sites)
    assert (after.seed, after.mask_key, after.share_key) == ("", "", "")


def _requested(sites: Network, **values: Any) -> RecordDict:
    return RecordDict({wire.CONFIG: wire.study_config(sites.study, modality="voice", **values)})


def test_a_server_that_requests_more_than_a_sum_of_many_is_refused(network: Callable[..., Network]) -> None:
    sites = network(drop=lambda call, site: call == wire.SECURE_UNMASK)
    with pytest.raises(RunError):
        strategy(sites).round(1, SENT)
    number = _session(sites).number

    def unmask(survivors: list[str], session: str = number) -> SiteResponse:
        return sites.responded(wire.SECURE_UNMASK, _requested(sites, session=session, survivors=survivors), "site-0")

    assert "too few" in unmask(["site-0", "site-1"]).failure
    assert "others' updates" in unmask(["site-1", "site-2", "site-3"]).failure
    assert "others' updates" in unmask([*sites.names, "stranger"]).failure
    assert "has not seen" in unmask(sites.names, "another").failure
    assert unmask(sites.names[:3]).content is not None
    assert "each round once" in unmask(sites.names).failure  # and not of both: that would tell the fourth's secrets


def test_keys_that_are_not_the_sites_own_or_of_too_few_are_refused(network: Callable[..., Network]) -> None:
    sites = network()
    reported = {
        name: wire.from_config(
            sites.responded(wire.SECURE_KEYS, _requested(sites, session="s", round=1), name).content or RecordDict(),
            "keys",
        )
        for name in sites.names
    }

    def shares(keys: dict[str, Any]) -> str:
        return sites.responded(wire.SECURE_SHARES, _requested(sites, session="s", keys=keys), "site-0").failure

    assert "other keys of this site" in shares({**reported, "site-0": reported["site-1"]})
    assert "that two sites have" in shares({**reported, "site-2": reported["site-1"]})
    assert "a sum of 2 updates" in shares(dict(list(reported.items())[:2]))
    assert not shares(reported)
    assert "other sites than before" in shares(dict(list(reported.items())[:3]))
    assert "1 to 3" in sites.responded(wire.SECURE_KEYS, _requested(sites, session="t", round=4), "site-0").failure


def test_a_study_without_it_has_no_such_steps(network: Callable[..., Network]) -> None:
    sites = network()
    plain = sites.study.with_changes(aggregation__secure=False)
    content = RecordDict({wire.CONFIG: wire.study_config(plain, modality="voice", session="s", round=1)})
    assert "does not have" in sites.responded(wire.SECURE_KEYS, content, "site-0").failure


def test_masks_cancel_only_together(network: Callable[..., Network]) -> None:
    """Without one step of the unmasking the sum is noise: what the server adds up is worth nothing by itself."""
    sites = network()
    rounds = strategy(sites)
    rounds.round(1, SENT)
    masked = [wire.arrays_of(c)[wire.MASKED] for c in sites.heard if wire.ARRAYS in c]
    raw = np.asarray(sum(masked, np.uint32(0)), np.uint32).view(np.int32) * quantum(sites.study) / 4
    assert raw.std() > 100 * np.abs(SENT["2.weight"]).max()


def test_why_flowers_masks_are_not_used() -> None:
    """Its generator sees 32 bits of a 256-bit key, in whatever order its words stand."""
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    one = bytes(range(32))
    other = one[4:] + one[:4]
    theirs = [pseudo_rand_gen(key, 2**32, [(8,)])[0].tolist() for key in (one, other)]
    assert theirs[0] == theirs[1]
    assert mask(one, 8).tolist() != mask(other, 8).tolist()
    import struct

    words = 0
    for word in struct.unpack("<8I", one):
        words ^= word
    assert np.random.RandomState(words).randint(0, 2**32 - 1, 8, dtype=np.int64).tolist() == theirs[0]


def test_a_mask_is_the_key_stream_of_chacha20_by_an_implementation_of_its_own() -> None:
    from Crypto.Cipher import ChaCha20

    key = bytes(range(32))
    stream = ChaCha20.new(key=key, nonce=bytes(12)).encrypt(bytes(400))
    assert mask(key, 100).tobytes() == stream
