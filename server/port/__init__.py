"""The one guarded port: mutual TLS 1.3, who is calling, how much they may ask, and what answers them."""
