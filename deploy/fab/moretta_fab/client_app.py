"""Moretta's ClientApp, as installed where the bundle is loaded."""

from moretta.client.app import app as _app

app = _app
