"""The worker: runs models and functions over rows that the server gives it, and can be killed at
any moment.

```text
            ┌────────────── sync: poll and beat ──────────────┐  assignments, stops
            ▼                                                 │
  todo ──► read ──► [bytes] ──► decode ──► [bytes] ──► compute ──► results ──► write ──► done
           2 threads            a thread      one thread, the          2 threads
                                a core        model's own cores
```

What always holds: a worker keeps nothing that matters. `state.py` says what it holds, without
threads or sockets; `pipeline.py` moves rows of models through bounded queues, and
`function_runs.py` those of functions, which compute in processes of their own; `protocol.py` speaks
to the server; `agent.py` ties them together; `main.py` is the command line.
"""
