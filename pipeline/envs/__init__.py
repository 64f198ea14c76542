"""CarRacing as the agent sees it: drawn fast, an action held for several steps, a small picture; and random drivers."""
