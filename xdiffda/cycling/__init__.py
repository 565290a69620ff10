"""Cycling: forecasts, cycles, 4D windows and the stores of their results.

Forecasts, cycles of forecast and analysis, windows of observations (4D), streams of cycles side by
side, and stores of many analysis times. Each analysis is made by `xdiffda.assimilation`.
"""
