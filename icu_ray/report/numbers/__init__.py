"""From trials to numbers: columns, rows, statistics, comparisons, tables."""
