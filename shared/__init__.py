"""Code that server and sites share, so that they agree. It never imports the rest of Moretta."""
