"""What to try: the study's configuration, its search space and the tasks."""
