"""Networks for faces that others trained, used as they are; those for voices are in `moretta.shared.pretrained`."""
