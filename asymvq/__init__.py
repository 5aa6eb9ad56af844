"""Asymmetric VQGAN decoders (arXiv 2306.04632): decode a latent together with the pixels that are to be kept."""
