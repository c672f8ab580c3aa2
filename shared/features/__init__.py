"""Features that server and sites both compute from sound and pictures, defined once."""
