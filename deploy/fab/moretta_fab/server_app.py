"""Moretta's ServerApp, as installed where the bundle is loaded."""

from moretta.deploy.runtime.server_app import app as _app

app = _app
