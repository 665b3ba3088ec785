"""Many runs from one file: a grid of settings, trained by a cluster of worker processes."""
