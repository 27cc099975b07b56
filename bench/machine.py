"""What the figures were taken on."""

import importlib.metadata
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import deltalake
import duckdb
import lance
import lancedb
import numpy as np
import pyarrow as pa

from support.server import LakebedServer


def describe_machine() -> dict[str, object]:
    """Processor, cores, memory and kernel."""
    cpu = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30), 1),
        "kernel": platform.release(),
    }


def describe_versions(server: LakebedServer) -> dict[str, str]:
    """The versions of both sides."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return {
        "lakebed": server.ready["version"],
        "commit": commit or "unknown",
        "pyarrow": pa.__version__,
        "pylance": lance.__version__,
        "lancedb": lancedb.__version__,
        "deltalake": deltalake.__version__,
        "duckdb": duckdb.__version__,
        "ray": version("ray"),
        "dask": version("dask"),
        "numpy": np.__version__,
        "rensa": importlib.metadata.version("rensa"),
        "datatrove": importlib.metadata.version("datatrove"),
        "hnswlib": importlib.metadata.version("hnswlib"),
        "faiss": importlib.metadata.version("faiss-cpu"),
        "usearch": importlib.metadata.version("usearch"),
        "python": platform.python_version(),
    }
