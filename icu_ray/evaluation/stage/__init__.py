"""Models x tasks through a pool of Ray Data actors, and what is kept of it in the store."""
