"""The testbed: a nature run of SPEEDY, forecasts of it, training pairs, and the scores of `speedy`.

``python -m xdiffda.experiments.osse STAGE``; the stages in their order make the bundled model from
an empty folder.
"""
