"""MLflow: a view of what lies in storage. No other room talks to it."""
