"""State: a Dataset in any convention to a typed array (node, member, channel) and back.

Names, units, axes, grids, levels and clocks are recognised here, and an analysis is given back in
the convention in which its background came.
"""
