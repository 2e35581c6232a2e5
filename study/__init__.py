"""The study service: sweeps decay, damping and coupling on a cluster and says what is best, and how sure it is."""
