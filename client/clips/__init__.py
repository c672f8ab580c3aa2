"""A site's clips: names, release, records of what left, withdrawal."""
