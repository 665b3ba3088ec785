"""What a training step and a packed network cost here, beside their peers, measured in one run."""
