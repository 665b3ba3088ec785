"""Products with packed weights: how bits are laid out, a file for each instruction set, and the choice."""
