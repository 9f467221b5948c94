"""What tests share: fake backends of every kind, distributions made on the spot."""
