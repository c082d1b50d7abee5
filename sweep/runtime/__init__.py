"""What a worker process does, and how a command retries."""
