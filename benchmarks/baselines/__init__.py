"""What a user would run instead: our own plain implementations, to measure against."""
