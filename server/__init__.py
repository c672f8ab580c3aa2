"""The coordinator's side: stages of a study, aggregation, enrollment, relay. Imports only `moretta.shared`."""
