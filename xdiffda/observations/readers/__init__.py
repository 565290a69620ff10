"""Readers of observations: from files as they come to tidy observations.

`read_obs` recognises a file by what it holds and reads it with the reader of its form. Nothing
of a file is executed, and nothing in it that cannot be used goes uncounted.
"""

from xdiffda.observations.readers.read import read_obs

__all__ = ["read_obs"]
