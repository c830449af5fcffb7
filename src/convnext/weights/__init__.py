"""Checkpoints of every origin: read, write, download, and exchange with other libraries."""
