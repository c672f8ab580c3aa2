"""What both sides compute from sound and pictures, defined once."""
