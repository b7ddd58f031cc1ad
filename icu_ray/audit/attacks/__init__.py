"""The attacks, a file each. Importing one does not import torch.

The model speaks in prompts.py (other prompts), prefix_search.py (how much of a secret must be given), sample.py (many
answers to one prompt), quantise.py (rounded weights), relearn.py (a few steps of fine-tuning) and adapter_off.py (a
model without its adapter). membership.py asks whether its scores tell what it has read, depth.py how deep in the layers
a row was forgotten, and neighbours.py what else was lost.
"""
