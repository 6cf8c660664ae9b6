"""Which standby of the database may be read for whom, and how fresh each is proven to be."""
