"""What monitoring systems and load balancers ask, and what they are answered."""
