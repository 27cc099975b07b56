"""Ratios against named peers; see README.md. Run by `make bench`."""
