"""What is to run, as frozen values: the grid, trial ids, settings, estimates, the schedule. No Ray, no torch."""
