"""What everything rests on: errors, exit codes, atomic files, seeds, threads."""
