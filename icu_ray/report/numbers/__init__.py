"""From trials to numbers: columns, rows, statistics, comparisons, tables.

- rows.py: trials put together to rows; variants.py: the settings in which they differ; columns.py: what a row shows
- statistics.py: means with intervals, and paired tests; comparison.py: rows compared by them
- best_cells.py: the best cell of each method of a grid
- distances.py: how far each row is from the gold standard, the model trained without the texts
- paper_tables.py: the values the paper prints, beside which a row stands
- benchmark_tables.py: a benchmark's own table, with what the literature prints (printed_benchmarks.json)
- field_names.py: our measures under the names of OpenUnlearning; elsewhere.py: what was measured by another framework
- trial_documents.py: the documents of a trial's evaluation; worst_rows.py: the rows that its model still knows best;
  field_rows.py: each row's values under the names and keys of OpenUnlearning
- audits.py: what attacks brought back, a line a model; epochs_missing.py: epochs that were not evaluated, and why;
  unfinished.py: trials whose evaluation or audit is outstanding
- sweep_difference.py, settings_difference.py: two sweeps by what differs; row_differences.py: two trials, row by row
- tasks.py, targets.py: tables of evaluation tasks and of single texts; heldout.py, outcome.py: a sentence on what
  became of the held-out texts, and on what came out; thresholds.py: those of the configs
- summary.py: trials.csv, cells.csv and summary.json, which a sweep leaves beside its trials
"""
