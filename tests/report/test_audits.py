"""What attacks brought back, in every form of the report: columns, the section, the figure, the terminal.

Needs: nothing; slow tests need a browser's absence of nothing, for they draw figures alone.
"""
