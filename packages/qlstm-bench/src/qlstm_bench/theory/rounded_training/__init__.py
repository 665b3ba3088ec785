"""Training with rounded weights: Li et al. 2017, "Training Quantized Nets: A Deeper Understanding"."""
