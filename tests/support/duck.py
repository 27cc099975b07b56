"""DuckDB with its extension for Lance, from the installed packages; nothing is fetched."""

import importlib.util
from pathlib import Path

import duckdb


def connect() -> duckdb.DuckDBPyConnection:
    """A connection that can read Lance tables by their paths."""
    package = importlib.util.find_spec("duckdb_extension_lance")
    folder = Path(package.submodule_search_locations[0])
    extension = folder / f"extensions/v{duckdb.__version__}/lance.duckdb_extension"
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute(f"LOAD '{extension}'")
    return connection
