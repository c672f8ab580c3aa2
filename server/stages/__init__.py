"""The stages of a study, one module each: `moretta.server.study` has their order."""
