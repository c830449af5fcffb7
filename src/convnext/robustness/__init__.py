"""Robustness of classifiers (Table 8, Appendix B): the released ImageNet-A, -R, -Sketch, -C and -C-bar, and the same
corruptions generated on any labelled images. Released and generated numbers are never mixed."""
