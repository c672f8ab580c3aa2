"""The stages of a study, one module each: `moretta.server.app` has their order."""
