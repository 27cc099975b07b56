"""The worker: runs models over rows that the server gives it, and can be killed at any moment.

```text
            ┌────────────── sync: poll and beat ──────────────┐  assignments, stops
            ▼                                                 │
  todo ──► read ──► [bytes] ──► decode ──► [bytes] ──► compute ──► results ──► write ──► done
           2 threads            a thread      one thread, the          2 threads
                                a core        model's own cores
```

What always holds: a worker keeps nothing that matters. `state.py` says what it holds, without
threads or sockets; `pipeline.py` moves rows through bounded queues; `protocol.py` speaks to the
server; `agent.py` ties them together; `main.py` is the command line.
"""
