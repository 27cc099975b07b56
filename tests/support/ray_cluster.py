"""A Ray cluster of this machine alone. Who imports this has set Ray's variables before."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import ray

# Ray gives its processes 30 s to start, which is not enough where others keep all processors busy.
STARTS_MAX = 3
MEMORY_BYTES = 128 << 20


@contextmanager
def local_cluster(cpus: int) -> Iterator[str]:
    """Starts a cluster of so many processors and connects this process to it; its address."""
    # The paths of its sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        for start in range(1, STARTS_MAX + 1):
            try:
                context = ray.init(
                    num_cpus=cpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    _node_ip_address="127.0.0.1",
                    object_store_memory=MEMORY_BYTES,
                    _temp_dir=folder,
                )
                break
            except Exception as error:
                ray.shutdown()
                if start == STARTS_MAX or "timed out" not in str(error):
                    raise
        yield context.address_info["address"]
        ray.shutdown()
