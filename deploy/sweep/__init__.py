"""`moretta sweep`: many studies that differ in a few settings, each distinct release made and attacked once."""
