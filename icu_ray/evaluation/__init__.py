"""What a model still can do and how good its texts are: tasks, the GPT judge, human ratings."""
