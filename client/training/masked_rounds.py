"""A site's part in secure aggregation: four responses a round, after which the server knows a sum and no summand.

The server is assumed to follow the protocol and to be curious. A server that hands a site keys of its own making in
place of the others' keys is not defended against: identities are what its certificate authority says.

The state of a round is on the site's disk: a request may reach a new process, or come twice.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from moretta.client.settings import SiteSettings
from moretta.client.site_home import read_own
from moretta.client.training.rounds import RoundRequest, StoredResponse, train_round
from moretta.shared.core.atomic import write_atomic
from moretta.shared.core.errors import RefusedError
from moretta.shared.messages import wire
from moretta.shared.messages.calls import KeysWanted, SharesWanted, TrainingWanted, UnmaskingWanted
from moretta.shared.privacy.site_updates import MAX_SITES, agreed_key, mask, packed, shared_mask, signed, threshold
from moretta.shared.study.schema import Study
from moretta.shared.study.sections import ModelKind

Pair = tuple[str, str]
_UNMASKED = TypeAdapter(dict[int, str])


class Session(BaseModel):
    """One attempt at one round. Bytes are hexadecimal."""

    model_config = ConfigDict(extra="forbid")

    number: str
    """The server's name of the attempt."""
    round: int
    mask_key: str
    """Private key of the masks that this site shares with each other site."""
    share_key: str
    """Private key of messages that the sites send each other through the server."""
    public: Pair
    """The public keys of both."""
    seed: str = ""
    """Seed of this site's own mask."""
    peers: dict[str, Pair] = {}
    """Public keys of every participant, this site included."""
    sent: dict[str, str] = {}
    """Encrypted shares for the others: the response to a repeated request."""
    held: dict[str, Pair] = {}
    """A share of the seed and of the mask key of each site, this one's own included."""
    question: str = ""
    """Digest of the round of training."""
    unmasked: dict[str, str] | None = None
    """Shares that were handed out: the secrets above are erased then."""

    def __repr__(self) -> str:
        return f"Session({self.number!r}, round={self.round})"

    __str__ = __repr__


@dataclass(frozen=True, slots=True)
class SessionStore:
    """The sessions of one model in one study, one at a time, and which rounds were unmasked."""

    folder: Path
    kind: ModelKind

    @classmethod
    def of(cls, home: Path, study: Study, kind: str) -> SessionStore:
        """The store in a site's home. Raises RefusedError where the study has no such step."""
        for known in study.models:
            if known == kind and study.aggregation.secure:
                return cls(home / "secure" / study.digest()[:16], known)
        raise RefusedError("a step of secure aggregation that the study does not have")

    def find(self, number: str) -> Session | None:
        """The session of this number; None if there is none, or another one."""
        try:
            session = Session.model_validate_json((self.folder / f"{self.kind}.json").read_bytes())
        except (OSError, ValidationError):
            return None
        return session if session.number == number else None

    def get(self, number: str) -> Session:
        """The session of this number, or a RefusedError."""
        if (session := self.find(number)) is None:
            raise RefusedError("a step of secure aggregation whose start this site has not seen, or has seen end")
        return session

    def keep(self, session: Session) -> None:
        """Replace any other session."""
        write_atomic(self.folder / f"{self.kind}.json", session.model_dump_json(), mode=0o600)

    def allow_unmasking(self, round_number: int, request: str) -> None:
        """Record that a round is unmasked, before it is. Raises RefusedError: it was unmasked for other sites or
        updates before: the difference would reveal one."""
        path = self.folder / f"{self.kind}-unmasked.json"
        broken = RefusedError(f"the record of unmasked rounds {path} cannot be read")
        known = read_own(path, _UNMASKED.validate_json, broken) or {}
        if known.setdefault(round_number, request) != request:
            raise RefusedError(
                f"round {round_number} is to be unmasked once more, with other sites or other weights",
                expected="each round once: the difference of two sums reveals a single update",
                fix="go on with the run that had it, or start a study of another name or seed",
            )
        write_atomic(path, _UNMASKED.dump_json(known), mode=0o600)


def public_keys(settings: SiteSettings, study: Study, request: KeysWanted) -> Pair:
    """First step: two public keys, PEM in hexadecimal. A new session replaces any other."""
    from moretta.shared.core.flower_private import generate_key_pairs, private_key_to_bytes, public_key_to_bytes

    store = SessionStore.of(settings.home, study, request.modality)
    if request.round > study.train.rounds:
        raise RefusedError(f"round {request.round}", expected=f"1 to {study.train.rounds}, by the study")
    session = store.find(request.session)
    if session is None:
        (mask_key, mask_public), (share_key, share_public) = generate_key_pairs(), generate_key_pairs()
        session = Session(
            number=request.session,
            round=request.round,
            mask_key=private_key_to_bytes(mask_key).hex(),
            share_key=private_key_to_bytes(share_key).hex(),
            public=(public_key_to_bytes(mask_public).hex(), public_key_to_bytes(share_public).hex()),
        )
        store.keep(session)
    return session.public


def shares(settings: SiteSettings, study: Study, request: SharesWanted) -> dict[str, str]:
    """Second step: for each other site, shares of this site's secrets that only that site can read. Raises
    RefusedError: too few or too many sites, keys that are not this site's, or two that are the same."""
    from moretta.shared.core.flower_private import create_shares, encrypt, share_keys_plaintext_concat

    store, site = SessionStore.of(settings.home, study, request.modality), settings.name
    session, peers = store.get(request.session), dict(sorted(request.keys.items()))
    if session.sent:
        _require(peers == session.peers, "keys of other sites than before")
        return session.sent
    least, names = study.aggregation.min_sites, list(peers)
    _require(least <= len(peers) <= MAX_SITES, f"a sum of {len(peers)} updates; expected {least} to {MAX_SITES}")
    _require(peers.get(site) == session.public, "other keys of this site than it gave")
    _require(len({key for pair in peers.values() for key in pair}) == 2 * len(peers), "a key that two sites have")
    seed, needed = os.urandom(32), threshold(len(peers), least)
    of_seed = create_shares(seed, needed, len(names))
    of_key = create_shares(bytes.fromhex(session.mask_key), needed, len(names))
    for place, name in enumerate(names):
        if name == site:
            session.held[site] = (of_seed[place].hex(), of_key[place].hex())
            continue
        text = share_keys_plaintext_concat(names.index(site), place, of_seed[place], of_key[place])
        session.sent[name] = encrypt(_agreed(session.share_key, peers[name][1]), text).hex()
    session.seed, session.peers = seed.hex(), peers
    store.keep(session)
    return session.sent


def masked_update(settings: SiteSettings, request: RoundRequest, message: TrainingWanted) -> StoredResponse:
    """Third step: trains, if this round was not trained before, and masks the update. It carries no loss or count.
    Raises RefusedError: shares of too few or other sites, or masks of another round; or the session is over."""
    site, min_sites = settings.name, request.study.aggregation.min_sites
    store = SessionStore.of(settings.home, request.study, request.kind)
    session = _with_shares(store, message, site, min_sites=min_sites)
    if request.number != session.round or session.question not in ("", request.digest):
        raise RefusedError("secure aggregation: masks of one round for another's update")
    session.question = request.digest
    store.keep(session)
    update = train_round(settings, request)
    # Under a mask of this site's own, and one shared with each other site
    _require(bool(session.seed), "a masked update after its masks were taken off")
    words = packed(update.arrays)
    covered = words + mask(bytes.fromhex(session.seed), len(words))
    for name in sorted(session.held.keys() - {site}):
        common = shared_mask(bytes.fromhex(session.mask_key), bytes.fromhex(session.peers[name][0]), len(words))
        covered += signed(common, site, name)
    return StoredResponse({wire.MASKED: np.asarray(covered)}, update.metrics)


def unmasking(settings: SiteSettings, study: Study, request: UnmaskingWanted) -> dict[str, str]:
    """Fourth step: a share of the seed of each site whose update is in the sum, and of the key of each other one.

    Never both of one site: both of them would reveal its update. This site's own secrets are erased.

    Raises:
        RefusedError: too few are in the sum, or not this site, or this round was unmasked for others before.
    """
    store = SessionStore.of(settings.home, study, request.modality)
    session, there = store.get(request.session), set(request.survivors)
    _require(bool(session.question), "an unmasking before an update")
    _require(there <= session.held.keys() and settings.name in there, "a sum of others' updates")
    least = threshold(len(session.peers), study.aggregation.min_sites)
    _require(len(there) >= least, f"a sum of {len(there)} updates: too few")
    digest = hashlib.sha256("\n".join([session.question, *sorted(there)]).encode()).hexdigest()
    store.allow_unmasking(session.round, digest)
    if session.unmasked is None:
        session.unmasked = {name: session.held[name][name not in there] for name in sorted(session.held)}
        session.seed = session.mask_key = session.share_key = ""
        store.keep(session)
    return session.unmasked


def _with_shares(store: SessionStore, message: TrainingWanted, site: str, *, min_sites: int) -> Session:
    """The session with the shares of the others' secrets. A site that sent none has dropped out."""
    from cryptography.fernet import InvalidToken

    from moretta.shared.core.flower_private import decrypt, share_keys_plaintext_separate

    session, received = store.get(message.session or ""), message.shares or {}
    names = list(session.peers)
    _require(site not in received and set(received) <= set(names), "shares of somebody who takes no part")
    _require(len(received) + 1 >= threshold(len(names), min_sites), f"shares of {len(received)} other sites: too few")
    if len(session.held) > 1:
        _require(set(session.held) == {site, *received}, "shares of other sites than before")
        return session
    for name, text in received.items():
        key = _agreed(session.share_key, session.peers[name][1])
        try:
            source, target, of_seed, of_key = share_keys_plaintext_separate(decrypt(key, bytes.fromhex(text)))
        except InvalidToken as error:
            raise RefusedError(f"shares of {name} that cannot be decrypted") from error
        _require((source, target) == (names.index(name), names.index(site)), f"shares of {name} that are another's")
        session.held[name] = (of_seed.hex(), of_key.hex())
    store.keep(session)
    return session


def _agreed(own: str, theirs: str) -> bytes:
    return agreed_key(bytes.fromhex(own), bytes.fromhex(theirs))


def _require(condition: bool, found: str) -> None:
    if not condition:
        raise RefusedError(f"secure aggregation: {found}")
