"""Priors: what `assimilate` calls a model.

A Gaussian B, a trained denoiser, published GenCast weights, or the reference prior of the real
atmosphere; the registry finds them by name, by folder or by address.
"""
