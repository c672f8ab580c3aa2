"""What the server and a site must agree on. Imports nothing from `moretta.server`, `moretta.client` or `moretta.deploy`."""
