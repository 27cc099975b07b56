"""Workers on a Ray cluster that grow and shrink with the queue.

    import lakebed.ray

    with lakebed.ray.attach("http://lake:10024", num_workers=8, resources={"GPU": 1}):
        job.wait()

```text
  this process              the cluster
  looks at the queue ──►    an actor ──► lakebed-worker   one for each worker; Ray places them,
  asks for more actors,     an actor ──► lakebed-worker   starts lost ones again, and adds
  or lets some go           …                             machines where it may
```

Which machine runs what, and what happens when one is lost, is Ray's. `workers.py` looks and
decides, `actor.py` is what runs on the cluster. `python -m lakebed.ray` is the same as a command.
"""

from lakebed.ray.workers import Workers, attach

__all__ = ["Workers", "attach"]
