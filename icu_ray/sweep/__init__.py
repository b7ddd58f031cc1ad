"""The main job: a config becomes trials on a cluster, and their results one table. `python -m icu_ray.sweep`."""
