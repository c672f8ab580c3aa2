"""The `moretta` commands, one file each."""
