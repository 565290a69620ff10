"""Networks of published models: their weights, graphs and layers; no assimilation."""
