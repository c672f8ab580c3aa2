"""Requests to sites and their responses over Flower's Grid."""
