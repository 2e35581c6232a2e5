"""What it says: the tidy table, the best setting and its rivals, comparisons, regimes and the defaults file."""
