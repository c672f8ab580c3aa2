"""Where the two sides are put together: the command line, the simulation, the Flower bundle."""
