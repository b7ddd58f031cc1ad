"""What a sweep left in storage, as tables, figures and a page; and the tables a terminal shows while it runs.

    written = write_report([("runs", "quickstart")])        # icu-ray report runs/quickstart

From storage to page, in the order to read:

1. `collect.py` reads sweep folders into `Collected`: every trial as far as it went, and what cannot be read.
2. `numbers/` makes values of it. `rows.py` puts trials together to rows (a method with its weights on one model),
   `variants.py` names the settings in which trials differ, `columns.py` says what stands in which column,
   `statistics.py` has intervals and tests, `paper_tables.py` the values the paper prints. `comparison.py` compares
   rows; `tasks.py` and `targets.py` are the tables of evaluation tasks and of single texts, `elsewhere.py` of what was
   measured by another framework, `worst_rows.py` of the rows that models still know best; `epochs_missing.py` says
   which epochs were not evaluated. `sweep_difference.py` sets
   two sweeps side by side. `summary.py` is the short form that a sweep leaves beside its trials: trials.csv, cells.csv,
   summary.json.
3. `contents.py` puts all of that together to one `Report`. The forms decide nothing but looks.
4. `figures/` chooses what can be drawn (`pictures.py`) and draws it.
5. `formats/` writes the `Report` as page, Markdown, LaTeX and CSV.
6. `write.py` calls 1 to 5 and writes the files. `export.py` makes a folder to publish of one trial's model;
   `exchange.py` reads evaluations of other frameworks into a sweep, and writes its trials in their form.

`terminal/` prints: the plan, a running sweep, the state of one, the summary of one that ended.

`tracking/` keeps MLflow up to date with storage; no other package talks to MLflow. `collect_tracked.py` reads a sweep
whose folder is gone from there, for a comparison.

This package must not know Ray, nor a sweep's driver: it reads storage, so a report can be made anywhere, at any time.
"""
