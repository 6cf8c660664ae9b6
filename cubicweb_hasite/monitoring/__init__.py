"""The monitors: what they measure, and how monitoring systems and load balancers get it."""
