"""Figures and films, made from what the stages leave."""
