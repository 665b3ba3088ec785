"""Runs packed layers over time, in one compiled call."""
