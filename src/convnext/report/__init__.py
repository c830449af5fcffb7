"""Figures and tables, drawn from the files of a run and from the paper's numbers; nothing here imports torch."""
