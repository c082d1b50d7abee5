"""What to run and when: sweep files, search, backends, command line."""
