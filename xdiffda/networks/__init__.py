"""Networks: GraphCast and GenCast (weights, graphs, layers). This room knows no assimilation."""
