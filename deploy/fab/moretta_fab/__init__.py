"""The bundle that Flower carries: names, no code."""
