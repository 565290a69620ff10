"""Diffusion: noise, denoise, guide, sample, as pure functions on arrays (node, member, channel).

A sampler calls ``denoise(z, sigma)`` and knows no observations; guidance wraps a denoiser by one
Kalman update for each noise level and is itself a denoiser. RePaint, the likelihood and the
draws of unresolved scales stand beside them.
"""
