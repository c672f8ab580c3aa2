"""How the server talks to sites: Flower's Grid, made to survive sites that are lost."""
