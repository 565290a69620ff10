"""Cycling: everything with a clock: forecasts, cycles, windows, streams, stores of analyses."""
