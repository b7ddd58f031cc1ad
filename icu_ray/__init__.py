"""icu_ray: iterative contrastive unlearning of language models on Ray."""
