"""A study on a cluster from a machine that is no part of it: each command runs there, as a job of Ray's."""
