"""The processes of a run: started together, watched, and all ended with it."""
