"""The study of gradients over run folders: networks read back, measured, in tables and figures."""
