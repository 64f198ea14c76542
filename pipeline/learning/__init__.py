"""The losses and returns of the papers, imagination, and the loop that fits a model."""
