"""Networks: GraphCast, GenCast and FGN (graphs, layers, checkpoints). No assimilation here.

Official weights are read and written in their own formats; whether a network serves as a
forecaster or as a denoiser with covariances is decided in the rooms above.
"""
