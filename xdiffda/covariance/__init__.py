"""Covariance: B of the background, V of the denoiser, and what they are made of.

Spherical-harmonic bases, control variables for balance, localised ensembles, unresolved scales, and
the random numbers of members.
"""
