"""What the coordinator runs: aggregation, audit, report. Imports only `moretta.shared`."""
