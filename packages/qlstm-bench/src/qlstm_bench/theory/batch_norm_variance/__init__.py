"""Batch normalisation in quantized networks: Sari et al. 2020."""
