"""What a site runs: anonymizers, training, the privacy ledger. Imports only `moretta.shared`."""
