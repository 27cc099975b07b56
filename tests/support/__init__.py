"""What the tests share: the built server as a process, its two doors, and sample data."""
