"""The epochs of one trial under DeepSpeed: train, measure, refine, stop."""
