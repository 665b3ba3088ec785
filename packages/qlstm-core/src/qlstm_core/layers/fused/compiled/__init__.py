"""The time steps of the fused route as compiled code."""
