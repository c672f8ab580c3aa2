"""The one connection from a site to its server."""
