"""Networks that both sides must agree on."""
