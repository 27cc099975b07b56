"""The worker: runs models and functions over rows that the server gives it, and can be killed at
any moment.

```text
            ┌────────────── sync: poll and beat ──────────────┐  assignments, stops
            ▼                                                 │
  todo ──► read ──► [bytes] ──► decode ──► [bytes] ──► compute ──► results ──► write ──► done
           2 threads            a thread   sorted by   a thread a core of      2 threads
                                a core     length      a CPU, 2 of a GPU
```

What always holds: a worker keeps nothing that matters. `state.py` says what it holds, without
threads or sockets; `pipeline.py` moves rows of models through bounded queues, with `pool.py` before
the device and `batches.py` for what fits into its memory, and `function_runs.py` those of
functions, which compute in processes of their own; `stages.py` has the clocks; `protocol.py` speaks
to the server; `agent.py` ties them together; `main.py` is the command line, and `supervisor.py`
keeps several processes.
"""
