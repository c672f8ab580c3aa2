"""What the server and a site must agree on. Never imports the rest of Moretta."""
