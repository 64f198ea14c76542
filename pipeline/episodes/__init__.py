"""Recorded episodes: the HDF5 data set, and the windows and whole episodes that training reads from it."""
