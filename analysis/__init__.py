"""What the records say: tables, statistics, figures, reports, and the W&B mirror."""
