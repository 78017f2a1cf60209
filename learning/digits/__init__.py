"""Handwritten digits, 8 by 8 pixels: a small model on real data, which keeps the accuracy of aggregation honest."""
