"""Counting and timing of live models."""
