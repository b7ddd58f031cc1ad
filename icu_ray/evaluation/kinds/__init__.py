"""The kinds of task: what each asks of a model, how a model answers it, how answers become scores."""
