"""The base of every part: errors, exit codes, atomic files, seeds, threads."""
