"""The parts of benchmarks/gpu.py. What computes runs in a process of its own: if it breaks, the other numbers stay.

setting.py says what is run, runner.py runs the parts and writes the results, table.py (one floor up) and summary.py
print them. teach.py, main_job.py, probes.py, step_memory.py, largest.py, evaluations.py, tofu.py and commands.py
measure.
"""
