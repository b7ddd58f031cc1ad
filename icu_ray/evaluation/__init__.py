"""What a model still can do and how good its texts are: tasks on Ray Data actors, the GPT judge, human ratings."""
