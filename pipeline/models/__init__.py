"""The networks and the distributions: the world model's parts, the actor and the critic."""
