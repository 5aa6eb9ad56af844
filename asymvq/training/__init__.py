"""Training of conditional decoders on frozen encoders."""
