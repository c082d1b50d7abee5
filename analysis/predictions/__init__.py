"""What trials predicted for their test sets: per class, calibration, and intervals over seeds and examples."""
