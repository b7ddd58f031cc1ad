"""What people see of a running command: progress, verbosity, exit codes."""
