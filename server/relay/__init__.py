"""The one door: Fleet calls come in by gRPC from enrolled sites, and go on to Flower's SuperLink on loopback."""
