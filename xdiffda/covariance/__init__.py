"""Covariance: B of the background, V of the denoiser, bases, balance, localised ensembles."""
