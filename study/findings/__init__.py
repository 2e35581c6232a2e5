"""What the records say: the tidy table, the best setting and its rivals, comparisons, regimes and the defaults file."""
