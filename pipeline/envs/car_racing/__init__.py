"""CarRacing-v3, and all that is special about it: drawn fast, tiles and laps, drivers of its own."""
