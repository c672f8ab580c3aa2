"""Only the installed bundle reaches the SuperNode: replies that bring code are checked on their way in.

The SuperNode is started with one trusted signer, whose key is made here and lives as long as this process. The gate
signs the bundle that equals the installed one. It replaces any other by an empty bundle without a signature, so the
SuperNode itself refuses it and reports that to the server at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.protobuf.message import DecodeError

from moretta.shared.core.errors import RefusedError
from moretta.shared.core.flower_private import (
    Fab,
    GetFabRequest,
    GetFabResponse,
    GetRunResponse,
    TaskType,
    create_message_to_sign,
)
from moretta.shared.messages.relay import Bundle, read_bundle

GET_RUN, GET_FAB = "get-run", "get-fab"
SIGNER = "moretta-connector"
_REFUSED = "refused"
_log = logging.getLogger(__name__)


class BundleGate:
    """Checks code from the SuperLink against the installed bundle."""

    def __init__(self, installed: Bundle) -> None:
        self._installed = installed
        self._key = ed25519.Ed25519PrivateKey.generate()

    @property
    def trusted_entities(self) -> str:
        """The file that names the SuperNode's one trusted signer; JSON is YAML."""
        public = self._key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        return json.dumps({SIGNER: public.decode()})

    def response(self, method: str, request: bytes) -> bytes | None:
        """The reply to a call that need not reach the server, because its code was refused before."""
        try:
            refused = method == GET_FAB and GetFabRequest.FromString(request).hash_str == _REFUSED
        except DecodeError:
            return None
        return GetFabResponse(fab=Fab()).SerializeToString() if refused else None

    def inspect(self, method: str, request: bytes, reply: bytes) -> bytes:
        """The reply as the SuperNode may have it. Replies that bring no code are passed on as they are."""
        try:
            if method == GET_RUN:
                response = GetRunResponse.FromString(reply)
                run, own = response.run, self._installed
                found = (run.fab_id, run.fab_version, run.primary_task_type)
                if found != (own.app, own.version, TaskType.SERVER_APP):
                    _log.error("refused run %d of the app %r %r, kind %r", run.run_id, *found)
                    run.fab_hash = _REFUSED
                return response.SerializeToString()
            if method == GET_FAB:
                return self._fab(GetFabRequest.FromString(request), GetFabResponse.FromString(reply).fab)
        except DecodeError:
            _log.error("refused a reply to %s that cannot be read", method)
            return b""
        return reply

    def _fab(self, request: GetFabRequest, fab: Fab) -> bytes:
        own_hash = hashlib.sha256(fab.content)
        try:
            digest = read_bundle(fab.content).digest
            if digest != self._installed.digest:
                raise RefusedError(f"a bundle of the digest {digest}", expected=self._installed.digest)
            if not fab.hash_str == request.hash_str == own_hash.hexdigest():
                raise RefusedError("a bundle under another hash than its own")
        except RefusedError as error:
            _log.error("refused the code of run %d: %s", request.run_id, error)
            return GetFabResponse(fab=Fab()).SerializeToString()
        signed_at = int(time.time())
        signature = self._key.sign(create_message_to_sign(own_hash.digest(), signed_at))
        verification = {"signed_at": signed_at, "signature": base64.urlsafe_b64encode(signature).decode()}
        verifications = {"valid_license": "installed", SIGNER: json.dumps(verification)}
        checked = Fab(hash_str=fab.hash_str, content=fab.content, verifications=verifications)
        return GetFabResponse(fab=checked).SerializeToString()
