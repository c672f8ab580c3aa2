"""One file a revision, numbered; a published one never changes."""
