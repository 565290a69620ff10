"""State: a Dataset in any convention to a typed array and back (names, units, grid, clock)."""
