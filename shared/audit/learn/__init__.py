"""What adaptive attackers are built from: features of clips, models on vectors, small networks on sequences."""
