"""Assimilation: a background and observations in, an ensemble of analyses out."""
