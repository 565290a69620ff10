"""Training: denoisers, forecasters and fine-tuned GraphCast, from one core to many nodes.

``python -m xdiffda.train CONFIG.toml`` reads the task from its configuration and resumes where it
stopped.
"""
