"""The people who are known: enrolling them, keeping them in a file, searching among them."""
