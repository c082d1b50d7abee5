"""Worker processes, and the loop that runs trials again after processes died."""
