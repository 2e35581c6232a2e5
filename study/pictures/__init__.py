"""Pictures of what a study found: each is defined once, for the report and for a file of its own."""
