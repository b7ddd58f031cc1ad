"""What the terminal shows: the plan, the live view, the status."""
