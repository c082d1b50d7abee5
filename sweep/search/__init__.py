"""Search algorithms and stopping rules: decisions made while trials run."""
