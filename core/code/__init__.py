"""A user's code: its files, the digest of what they mean, and a tree of them to run."""
