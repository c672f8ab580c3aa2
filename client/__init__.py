"""The code of a site: anonymizers, training, the privacy ledger. Imports only `moretta.shared`."""
