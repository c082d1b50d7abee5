"""What the command line draws and prints: the live view, a plan, a trial."""
