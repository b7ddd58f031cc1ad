"""How good generations are in the eyes of others: a GPT judge and people, with their agreement."""
