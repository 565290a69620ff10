"""The experiments of the DiffDA paper, each one command, with every method beside it."""
