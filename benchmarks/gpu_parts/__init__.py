"""The parts of benchmarks/gpu.py: each runs in a process of its own, so that none takes the others' numbers along.

setting.py says what is run, runner.py runs the parts and writes the results, table.py (one floor up) and summary.py
print them. teach.py, main_job.py, probes.py, step_memory.py and commands.py measure.
"""
