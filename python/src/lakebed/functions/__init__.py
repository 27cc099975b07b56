"""Functions that users wrote, run beside the worker and never inside it.

```text
  definition ──► environment ──► instance: a process per function ──► rows in, values out
  what it is     what it needs    runner.py runs in there              errors row by row
```

What always holds: nothing of a user's code is imported or called in this process. `definition.py`
says what a function is, `environment.py` makes the Python that it runs in, `runner.py` is the one
file that runs there, `instance.py` is this side of that process, `pool.py` keeps processes for the
next task, and `evaluate.py` finds the row that is at fault.
"""
