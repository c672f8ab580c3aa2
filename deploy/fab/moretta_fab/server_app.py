"""Moretta's ServerApp, as installed where the bundle is loaded."""

from moretta.server.app import app as _app

app = _app
