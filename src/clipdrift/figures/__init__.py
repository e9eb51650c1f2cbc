"""Figures of studies, comparisons and repairs. They compute nothing."""
