"""A game: drive in the dream or in the real environment, stop, go back, and try another future."""
