"""Training: one run from its settings to its result, its folder, and what makes it repeatable."""
