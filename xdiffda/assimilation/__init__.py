"""Assimilation: a background and observations in, an ensemble of analyses out.

`assimilate` reads the background and the settings, one method draws the members of each analysis
time, and the classical methods on arrays stand in `baselines` for comparison.
"""
