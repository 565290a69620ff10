"""Priors: what `assimilate` calls a model, from a Gaussian B to a diffusion model."""
