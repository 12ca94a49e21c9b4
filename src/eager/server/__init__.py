"""HTTP: what others ask, and what they are answered."""
